"""Every pair of methods is either trained with, or refused with the field and the reason; a new method is a line of METHODS."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.in_process import copied, train_ensemble
from services.trainer.preparation import prepare
from services.trainer.training import train_denoiser
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from tests.denoisers import PROMPTS, tiny_model
from tests.training_films import films

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.trainer.caption_transforms import CaptionTransform
    from shared.diffusion.model import Model

FIRST: Final = ("scrub", "multiple")  # kinds of captions in the order that the spec wants
REST: Final = ("random_caption", "random_tokens", "word_repetition", "embedding_noise")
AGC: Final = {"kind": "anti_gradient"}
IET: Final = {"kind": "iet", "shards": 2, "rounds": 1}

METHODS: Final[dict[str, dict[str, Any]]] = (
    {kind: {"captions": [{"kind": kind}]} for kind in (*FIRST, *REST)}
    | {kind: {"parameters": {"kind": kind}} for kind in ("attention", "bias_norm", "lora", "svdiff", "diffit")}
    | {
        "one block": {"parameters": {"kind": "full", "mask": [1, 0, 0, 0]}},
        "text encoder": {"text_encoder": "train"},
        "deduplicate": {"deduplicate": {"films_per_patient": 2}},
        "magnitude": {"batch_filter": {"kind": "magnitude"}},
        "threshold": {"batch_filter": {"kind": "magnitude", "threshold": 1e6}},
        "by timestep": {"batch_filter": {"kind": "magnitude", "by_timestep": True}},
        "anti_gradient": {"batch_filter": AGC},
        "anti_gradient with augmentation": {"batch_filter": AGC | {"augment_margin": 0.1, "until_timestep": 600}},
        "u_shaped": {"timesteps": "u_shaped"},
        "min_snr": {"min_snr_gamma": 5.0},
        "accumulation": {"gradient_accumulation": 2},
        "ensemble": {"ensemble": IET},
        "ensemble with moves": {"ensemble": IET | {"rounds": 4, "redistribute": 0.5}, "steps": 8},
    }
)

PARTS: Final = ("attention", "bias_norm", "lora", "svdiff", "diffit", "one block")
FILTERS: Final = ("magnitude", "threshold", "by timestep", "anti_gradient", "anti_gradient with augmentation")
REFUSED: Final = {frozenset({part, "text encoder"}): ("parameters", "text_encoder to frozen") for part in PARTS} | {
    frozenset({other, "ensemble with moves"}): ("ensemble", "give a batch_filter") for other in METHODS if other not in FILTERS
}
"""Pairs that make no sense, with the field that is named and the reason."""


def join(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both methods' fields; of captions all kinds, in order."""
    captions = sorted(one.get("captions", []) + other.get("captions", []), key=lambda rule: (*FIRST, *REST).index(rule["kind"]))
    return one | other | ({"captions": captions} if captions else {})


def asked(*methods: str) -> dict[str, Any]:
    """A spec of these methods."""
    told = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "text_encoder": "frozen", "steps": 2, "batch_size": 2, "warm_up": 0.5}
    for method in methods:
        told = join(told, METHODS[method])
    return told


def competing(one: str, other: str) -> bool:
    """Whether both are answers to the same question; captions are lists."""
    return bool(METHODS[one].keys() & METHODS[other].keys() - {"captions"})


PAIRS: Final = [pair for pair in itertools.combinations(METHODS, 2) if not competing(*pair)]


@pytest.fixture(scope="module")
def base() -> Model:
    """What all go on from; trainings take copies."""
    return tiny_model()


def shown() -> TrainingSet:
    """Six films of four patients: one twice, one with a mark, one shown often."""
    four = films((1, 1, 3, 1))
    prompts = [*PROMPTS, PROMPTS[1], "AP view: edema on 2019-05-02"]
    pictures = np.concatenate([four.images_NHW, four.images_NHW[1:2], four.images_NHW[:1, ::-1]])
    return TrainingSet(pictures, prompts, np.array([*four.repeats, 1, 1]), patients=np.array([0, 1, 2, 3, 1, 0]))


def train(base: Model, told: dict[str, Any]) -> tuple[list[float], bool]:
    """What a job would do with these films: the losses, and whether the denoiser moved."""
    spec = TrainingSpec.model_validate(told)
    torch.manual_seed(spec.seed)
    model, prepared, losses = copied(base), prepare(shown(), spec), list[float]()

    def on_step(_step: int, _steps: int, _phase: str, loss: Tensor) -> None:
        losses.append(float(loss))

    if spec.ensemble is None:
        train_denoiser(model, prepared.films, Recipe.of(spec), on_step)
    else:
        train_ensemble(model, prepared.films, Recipe.of(spec), spec.ensemble, on_step)
    before, after = base.unet.state_dict(), model.unet.state_dict()
    assert before.keys() == after.keys()  # an ordinary network again
    assert all(bool(weight.isfinite().all()) for weight in after.values())
    return losses, any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_pair_trains_or_is_refused_by_its_field(base: Model, one: str, other: str) -> None:
    told = asked(one, other)
    refusal = REFUSED.get(frozenset({one, other}))
    if refusal is None:
        losses, moved = train(base, told)
        assert len(losses) == told["steps"]
        assert all(0 < loss < math.inf for loss in losses)
        assert moved
        return
    field, reason = refusal
    with pytest.raises(ValidationError, match=reason) as caught:
        TrainingSpec.model_validate(told)
    assert [error["loc"][0] for error in caught.value.errors()] == [field]


def test_all_that_goes_together_trains_together(base: Model) -> None:
    """IET-AGC+ with singular values, all captions, and what else there is."""
    together = ("ensemble with moves", "anti_gradient with augmentation", "svdiff", "u_shaped", "min_snr", "deduplicate", *FIRST, *REST)
    losses, moved = train(base, asked(*together))
    assert len(losses) == 8
    assert all(0 < loss < math.inf for loss in losses)
    assert moved


def few_levels(count: int, _timesteps: int, generator: torch.Generator) -> Tensor:
    """Three noise levels, so that control finds means to compare with in few steps."""
    return torch.randint(0, 3, (count,), generator=generator) * 300


def test_each_part_does_its_work_beside_the_others(base: Model) -> None:
    """IET-AGC+ with SV-DIFF and random captions: samples are left out, films come changed and change shards, captions are other ones."""
    told = asked("ensemble with moves", "anti_gradient with augmentation", "svdiff", "random_caption") | {"steps": 80, "batch_size": 4}
    told["batch_filter"] = told["batch_filter"] | {"scale": 1.0}  # below the mean is left out: nothing is known by heart yet
    spec = TrainingSpec.model_validate(told)
    assert spec.ensemble is not None
    recipe = Recipe.of(spec)
    (opens,) = recipe.captions
    said: list[tuple[str, str]] = []

    def noted(model: Model, prompts: Sequence[str]) -> CaptionTransform:
        transform = opens(model, prompts)

        def change(prompt: str, generator: np.random.Generator) -> str:
            said.append((prompt, transform(prompt, generator)))
            return said[-1][1]

        return change

    torch.manual_seed(spec.seed)
    model, learnt = copied(base), shown()
    outcome = train_ensemble(model, learnt, replace(recipe, captions=(noted,), timesteps=few_levels), spec.ensemble, lambda *_told: None)
    totals = outcome.skips.totals()
    assert totals["visited_samples"] == len(said) == 80 * 4
    assert 0 < totals["skipped_samples"] < 80 * 4
    assert totals["augmented_samples"] > 0
    assert 0.03 < sum(before != after for before, after in said) / len(said) < 0.2
    assert len(outcome.moves_M4) > 0
    assert outcome.moves_M4[:, 0].tolist() == [3] * len(outcome.moves_M4)
    assert any(delta.any() for name, delta in outcome.deltas.items() if name.endswith("delta"))
    assert all(bool(weight.isfinite().all()) for weight in model.unet.state_dict().values())


def test_every_kind_that_a_spec_knows_is_among_the_methods() -> None:
    kinds = {
        field: {kind for definition in schema_kinds(field) for kind in definition}
        for field in ("captions", "parameters", "batch_filter", "ensemble")
    }
    told = [rule for method in METHODS.values() for field in kinds for rule in _listed(method.get(field, []))]
    assert {rule["kind"] for rule in told} == set().union(*kinds.values())


def schema_kinds(field: str) -> list[list[str]]:
    """The kinds that the spec's schema names for a field."""
    schema = TrainingSpec.model_json_schema()
    wanted, kinds = [schema["properties"][field]], []
    while wanted:
        part = wanted.pop()
        if isinstance(part, dict):
            if "$ref" in part:
                wanted.append(schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]["properties"]["kind"])
            kinds += [[part["const"]]] if "const" in part else []
            wanted += [value for key, value in part.items() if key not in {"$ref", "discriminator"}]
        elif isinstance(part, list):
            wanted += part
    return kinds


def _listed(told: Any) -> list[dict[str, Any]]:
    return told if isinstance(told, list) else [told]
