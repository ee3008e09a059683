"""What a search is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.search.search_spec import KINDS, Range, SearchSpec
from services.trainer.training_spec import TrainingSpec
from tests.fixtures.processes import ROOT

TRAINING = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "steps": 100}
PUBLISHED_RATES = [1e-5, 1.77828e-5, 3.16228e-5, 5.62341e-5, 1e-4, 1.77828e-4, 3.16228e-4, 5.62341e-4, 1e-3]


def spec(**wishes: Any) -> SearchSpec:
    return SearchSpec.model_validate({"training": TRAINING, "space": "svdiff", **wishes})


def test_search_survives_the_way_through_a_job_record() -> None:
    told = spec(
        space="auto",
        learning_rate={"lora": {"low": 1e-4, "high": 1e-2, "points": 3}},
        vary={"batch_filter": [None, {"kind": "magnitude"}], "captions": [[], [{"kind": "random_tokens"}]]},
        constraints=[{"reward": "copy_rate", "at_most": 0.1}],
        recommend={"rule": "quality_within"},
    )
    assert SearchSpec.model_validate(told.model_dump(mode="json")) == told


def test_search_without_wishes_is_the_published_one() -> None:
    told = spec()
    assert (told.objectives, told.trials, told.parallel, told.sampler, told.ranks) == (["memorization", "fid"], 20, 1, "tpe", [2, 4, 8])
    assert told.training.text_encoder == "frozen"
    assert told.rates_of("svdiff") == PUBLISHED_RATES
    assert told.rung_steps == [10, 30, 100]


def test_trainings_of_a_search_are_trainings() -> None:
    training = spec().training
    assert TrainingSpec.model_validate(training.model_dump(mode="json")).model_dump() == training.model_dump()


def test_space_names_its_kinds() -> None:
    assert spec().kinds == ["svdiff"]
    assert spec(space="auto").kinds == list(KINDS)


def test_rates_keep_both_ends_and_survive_json() -> None:
    assert Range(low=1e-4, high=1e-2, points=3).rates == [1e-4, 1e-3, 1e-2]
    assert Range(low=1e-4, high=1e-4, points=5).rates == [1e-4]
    assert Range(low=1e-4, high=1e-4, points=1).rates == [1e-4]
    assert Range(low=5e-324, high=1.0, points=2).rates == [5e-324, 1.0]


def test_kinds_without_a_range_of_their_own_have_the_usual_one() -> None:
    told = spec(space="auto", learning_rate={"lora": {"low": 1e-4, "high": 1e-2, "points": 2}})
    assert told.rates_of("lora") == [1e-4, 1e-2]
    assert told.rates_of("svdiff") == PUBLISHED_RATES


def test_constraints_are_measured_too() -> None:
    told = spec(constraints=[{"reward": "copy_rate", "at_most": 0.1}, {"reward": "fid", "at_most": 9.0}])
    assert told.rewards == ["memorization", "fid", "copy_rate"]


def test_rungs_of_few_steps_are_fewer() -> None:
    assert spec(training=TRAINING | {"steps": 3}).rung_steps == [1, 3]
    assert spec(training=TRAINING | {"steps": 1}).rung_steps == [1]
    assert spec(pruning=None).rung_steps == [100]


@pytest.mark.parametrize(
    ("wishes", "place"),
    [
        ({"trials": 0}, ("trials",)),
        ({"parallel": 0}, ("parallel",)),
        ({"space": "full"}, ("space",)),
        ({"objectives": []}, ("objectives",)),
        ({"objectives": ["fid", "fid"]}, ("objectives",)),
        ({"objectives": ["fid", "kid", "amd", "recall", "copy_rate"]}, ("objectives",)),
        ({"training": TRAINING | {"base": None}}, ("training", "base")),
        ({"training": {"name": "a", "dataset": "ds_1"}}, ("training", "base")),
        ({"training": TRAINING | {"learning_rate": 1e-4}}, ("training", "learning_rate")),
        ({"training": TRAINING | {"parameters": {"kind": "svdiff"}}}, ("training", "parameters")),
        ({"training": TRAINING | {"text_encoder": "train"}}, ("training", "text_encoder")),
        ({"training": TRAINING | {"ensemble": {"kind": "iet"}, "steps": 1000}}, ("training", "ensemble")),
        ({"training": TRAINING | {"data_parallel": {"ranks": 2}}}, ("training", "data_parallel")),
        ({"training": TRAINING | {"validation": {"prompts": ["a film"]}}}, ("training", "validation")),
        ({"learning_rate": {"lora": {"low": 1e-4, "high": 1e-3}}}, ("learning_rate",)),
        ({"learning_rate": {}}, ("learning_rate", "low")),
        ({"learning_rate": 1e-4}, ("learning_rate",)),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, ("learning_rate", "high")),
        ({"learning_rate": {"svdiff": {"low": 1e-4}}}, ("learning_rate", "svdiff", "high")),
        ({"learning_rate": {"svdiff": {"low": 1e-4, "high": 1e-3}, "full": {}}}, ("learning_rate", "full")),
        ({"ranks": [4]}, ("ranks",)),
        ({"space": "lora", "ranks": [8, 4]}, ("ranks",)),
        ({"space": "lora", "ranks": [0, 4]}, ("ranks", 0)),
        ({"always": ["a.b", "a.b"]}, ("always",)),
        ({"vary": {"batch_filter": [None, None]}}, ("vary", "batch_filter")),
        ({"vary": {"captions": [[{"kind": "random_tokens"}, {"kind": "scrub"}]]}}, ("vary", "captions")),
        (
            {"vary": {"batch_filter": [None]}, "training": TRAINING | {"batch_filter": {"kind": "magnitude"}}},
            ("vary",),
        ),
        ({"vary": {"captions": [[]]}, "training": TRAINING | {"captions": [{"kind": "scrub"}]}}, ("vary",)),
        ({"constraints": [{"reward": "fid"}]}, ("constraints", 0, "at_least")),
        ({"constraints": [{"reward": "fid", "at_most": 1.0, "at_least": 0.0}]}, ("constraints", 0, "at_least")),
        ({"constraints": [{"reward": "fid", "at_most": float("nan")}]}, ("constraints", 0, "at_most")),
        ({"pruning": {"rungs": [0.3, 0.1]}}, ("pruning", "rungs")),
        ({"pruning": {"rungs": [0.3, 1.0]}}, ("pruning", "rungs", 1)),
        ({"sampler": "grid"}, ("sampler",)),
        ({"evaluation": {"noises": 0}}, ("evaluation", "noises")),
        ({"objectives": ["memorization", "recall"], "evaluation": {"control_prompts": 5}}, ("evaluation",)),
        ({"constraints": [{"reward": "density", "at_least": 0.5}], "evaluation": {"control_prompts": 2}}, ("evaluation",)),
        ({"recommend": {"rule": "best"}}, ("recommend",)),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_where_they_stand(wishes: dict[str, Any], place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        spec(**wishes)
    assert place in [error["loc"] for error in refused.value.errors()]


def test_balls_around_images_are_measured_of_enough_of_them() -> None:
    for objectives, prompts in ((["memorization", "recall"], 6), (["memorization", "fid"], 2)):
        assert spec(objectives=objectives, evaluation={"control_prompts": prompts}).evaluation.control_prompts == prompts


@pytest.mark.parametrize(
    "wish", [{"low": 1e-3, "high": 1e-4}, {"low": 0.0, "high": 1e-4}, {"low": 1e-4, "high": 1e-3, "points": 1}, {"low": 1e-4}]
)
def test_ranges_that_hold_no_grid_are_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(wish)


def test_search_is_read_without_a_tensor_library() -> None:
    code = "import sys; import services.trainer.search.search_spec; print({'torch', 'optuna', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
