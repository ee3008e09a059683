"""A point that a search found, as a training of its own."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer.search.applied import applied_training, point_of, require_same_modules
from services.trainer.search.space import Space
from services.trainer.search.trial import Trial
from services.trainer.training_spec import FoundBy, TrainingSpec
from shared.errors import ConflictError, InvalidRequestError
from tests.services.trainer.search.finished import finished
from tests.services.trainer.search.toy import MODULES, ended, spec_of


def applied(trial: Trial, wishes: dict[str, Any] | None = None, **told: Any) -> TrainingSpec:
    return applied_training(spec_of(**told), MODULES, trial, {"name": "b", "dataset": "ds_2"} | (wishes or {}), "job_1")


def trial_of(**told: Any) -> Trial:
    """A trial of the second mask that leaves one module out."""
    space = Space.of(spec_of(**told), MODULES)
    genes = {name: axis.options - 1 for name, axis in space.axes({})} | {"bit.1": 0, "rank.0": 1}
    genes = {name: genes[name] for name in genes if not name.startswith("rate")} | {f"rate.{kind}": 2 for kind in space.kinds}
    choice = space.choice(genes, "suggested")
    assert choice is not None
    return ended(7, choice, {"memorization": 0.1, "finding_agreement": 0.9})


def test_point_is_trained_with_by_the_names_of_its_modules_and_its_rate() -> None:
    spec = applied(trial_of())
    assert spec.parameters.kind == "svdiff"
    assert spec.parameters.blocks == [name for name in MODULES if name != MODULES[1]]
    assert spec.parameters.mask is None
    assert spec.learning_rate == 3.16228e-05
    assert spec.parameters.learning_rate is None
    assert (spec.dataset, spec.base, spec.text_encoder, spec.found_by) == ("ds_2", "mdl_1", "frozen", FoundBy(search="job_1", trial=7))


def test_what_is_not_wished_is_as_in_the_search() -> None:
    told = {"training": {"name": "find", "dataset": "dst_1", "base": "mdl_1", "steps": 77, "weight_decay": 0.5}}
    spec = applied(trial_of(**told), {"weight_decay": 0.25, "learning_rate": 1e-3}, **told)
    assert (spec.name, spec.steps, spec.weight_decay, spec.learning_rate) == ("b", 77, 0.25, 1e-3)


def test_ranks_of_lora_are_kept_in_the_order_of_the_modules() -> None:
    spec = applied(trial_of(space="lora"), space="lora")
    assert spec.parameters.model_dump()["ranks"] == [4, 0, 8, 8, 8, 8]
    assert spec.parameters.blocks is None


def test_filter_and_captions_that_were_found_come_along_unless_others_are_wished() -> None:
    vary = {"vary": {"batch_filter": [None, {"kind": "magnitude"}], "captions": [[], [{"kind": "random_tokens"}]]}}
    found = applied(trial_of(**vary), **vary)
    assert found.batch_filter is not None
    assert [rule.kind for rule in found.captions] == ["random_tokens"]
    other = applied(trial_of(**vary), {"batch_filter": None}, **vary)
    assert (other.batch_filter, other.captions) == (None, found.captions)


def test_ensemble_may_go_by_the_filter_that_was_found_and_by_the_searchs_steps() -> None:
    told = {"vary": {"batch_filter": [None, {"kind": "magnitude"}]}}
    told["training"] = {"name": "find", "dataset": "dst_1", "base": "mdl_1", "steps": 5000}
    wish = {"ensemble": {"kind": "iet", "shards": 20, "rounds": 100, "redistribute": 0.05}}
    spec = applied(trial_of(**told), wish, **told)
    assert spec.ensemble is not None
    assert (spec.ensemble.redistribute, spec.steps) == (0.05, 5000)
    with pytest.raises(InvalidRequestError, match="batch_filter") as refused:
        applied(trial_of(), {"ensemble": {"kind": "iet", "redistribute": 0.05}})
    assert refused.value.field == "ensemble"


def test_wishes_that_do_not_go_with_what_was_found_are_refused_by_field() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        applied(trial_of(), {"text_encoder": "train"})
    assert refused.value.field == "parameters"
    with pytest.raises(InvalidRequestError) as refused:
        applied(trial_of(), {"ensemble": {"kind": "iet", "shards": 64, "rounds": 100}})
    assert refused.value.field == "ensemble"


def test_recommended_point_is_taken_unless_a_trial_is_named() -> None:
    summary, trials = finished()
    assert point_of(summary, trials, None, "job_1").number == summary["recommended"]["trial"]
    assert point_of(summary, trials, 2, "job_1") == trials[2]


@pytest.mark.parametrize(("number", "why"), [(9, "is pruned"), (10, "is failed"), (11, "is running"), (12, "was not begun")])
def test_trials_without_an_end_are_no_points(number: int, why: str) -> None:
    summary, trials = finished()
    with pytest.raises(ConflictError, match=why):
        point_of(summary, trials, number, "job_1")


def test_search_without_a_recommended_point_conflicts() -> None:
    summary, trials = finished()
    with pytest.raises(ConflictError, match="recommends no trial"):
        point_of(summary | {"recommended": None}, trials, None, "job_1")


@pytest.mark.parametrize("found", [None, [], MODULES[:-1], MODULES[::-1], [*MODULES, "up_blocks.2.attentions.1"]])
def test_base_with_other_modules_is_refused(found: list[str] | None) -> None:
    require_same_modules(MODULES, list(MODULES), "mdl_2")
    with pytest.raises(InvalidRequestError) as refused:
        require_same_modules(MODULES, found, "mdl_2")
    assert refused.value.field == "base"
