"""The rewards on images and predictions that are known: perfect copies, real films, noise, a denoiser that knows a film by heart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from shared.errors import ConflictError
from shared.memorization.galleries import FilmSet, reader_agreement
from shared.memorization.noised_films import NoisedFilms
from shared.memorization.rewards import built_in
from shared.memorization.rewards.built_in import REWARDS
from shared.memorization.rewards.evaluation import Evaluation
from shared.memorization.rewards.names import BUILT_IN, MEMORIZATION
from shared.memorization.rewards.reference import Reference
from shared.memorization.rewards.reward import Reward
from tests.denoisers import MemorizerModel
from tests.shared.memorization.rewards.conftest import EFFORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.diffusion.model import Model

SHAPE = (2, EFFORT.images_per_canary, 32, 32)
NOISE = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture
def seeing(tiny_model: Model, reference: Reference) -> Callable[..., Evaluation]:
    """An evaluation that finds some things made already."""

    def made(measured_against: Reference = reference, **parts: Any) -> Evaluation:
        evaluation = Evaluation(tiny_model, measured_against, EFFORT)
        vars(evaluation).update(parts)
        return evaluation

    return made


@pytest.fixture
def copies(reference: Reference) -> Any:
    """What a model draws that has learnt its canaries by heart."""
    return np.repeat(reference.canaries.images_NHW[:, None], EFFORT.images_per_canary, 1)


@pytest.fixture
def of_one_kind(reference: Reference, films_of: Callable[..., FilmSet]) -> Reference:
    """Controls that are the real films themselves."""
    others = films_of("control", fold="evaluation")
    return Reference.of(reference.gallery, reference.canaries, others, others, films_of("train", "canary"), EFFORT)


def test_every_name_has_its_reward() -> None:
    assert list(REWARDS) == list(BUILT_IN)
    for name, reward in REWARDS.items():
        assert isinstance(reward, Reward)
        assert (reward.name, reward.direction) == (name, BUILT_IN[name])
        assert (reward.aspect == "memorization") == (name in MEMORIZATION)


def test_perfect_copies_are_all_counted(seeing: Callable[..., Evaluation], copies: Any) -> None:
    evaluation = seeing(canary_images=copies)
    found = REWARDS["copy_rate"](evaluation)
    assert (found["value"], found["high"], found["n"]) == (1, 1, 6)
    assert found["low"] == pytest.approx(0.025**0.5)  # two of two canaries, exactly
    assert REWARDS["amd"](evaluation)["value"] == pytest.approx(0, abs=2e-3)  # codes are kept in single precision
    assert REWARDS["extraction"](evaluation)["value"] == 2


def test_noise_copies_nobody(seeing: Callable[..., Evaluation]) -> None:
    evaluation = seeing(canary_images=NOISE)
    found = REWARDS["copy_rate"](evaluation)
    assert (found["value"], found["low"]) == (0, 0)
    assert found["high"] == pytest.approx(1 - 0.025**0.5)
    assert REWARDS["extraction"](evaluation)["value"] == 0
    assert REWARDS["amd"](evaluation)["value"] > 0.1


def test_rates_of_single_canaries_are_told_with_an_interval_over_canaries(seeing: Callable[..., Evaluation], copies: Any) -> None:
    half = copies.copy()
    half[1] = NOISE[1]
    evaluation = seeing(canary_images=half)
    assert REWARDS["copy_rate"](evaluation) == {"value": 0.5, "low": 0, "high": 1, "n": 6}
    found = REWARDS["extraction"](evaluation)
    assert (found["value"], found["n"]) == (1, 2)
    assert 0 < found["low"] < 1 < found["high"] < 2


def test_fewer_images_than_a_clique_are_a_clique_of_their_own(seeing: Callable[..., Evaluation], copies: Any) -> None:
    evaluation = seeing(canary_images=copies[:, :1])
    evaluation.effort = EFFORT.model_copy(update={"images_per_canary": 1})
    assert REWARDS["extraction"](evaluation)["value"] == 2


def test_two_alike_images_of_three_give_nothing_up(seeing: Callable[..., Evaluation], copies: Any) -> None:
    images = copies.copy()
    images[:, 0] = NOISE[:, 0]
    assert built_in.CLIQUE == 3
    assert REWARDS["extraction"](seeing(canary_images=images))["value"] == 0


def test_magnitude_of_canaries_counts_beyond_that_of_controls(seeing: Callable[..., Evaluation]) -> None:
    canaries = NoisedFilms(np.array([[5.0, 7.0], [6.0, 6.0]]), np.array([[0.1, 0.3], [0.2, 0.2]]))
    controls = NoisedFilms(np.full((7, 2), 1.5), np.full((7, 2), 0.4))
    evaluation = seeing(noised_canaries=canaries, noised_controls=controls)
    assert REWARDS["memorization"](evaluation) == {"value": 4.5, "low": 4.5, "high": 4.5, "n": 9}
    assert REWARDS["noise_magnitude"](evaluation) == {"value": 6, "low": 6, "high": 6, "n": 2}
    assert REWARDS["membership_advantage"](evaluation) == {"value": 1, "low": 1, "high": 1, "n": 9}
    turned = seeing(noised_canaries=controls_of(canaries, 0.4), noised_controls=controls_of(controls, 0.1))
    assert REWARDS["membership_advantage"](turned)["value"] == 0


def controls_of(films: NoisedFilms, loss: float) -> NoisedFilms:
    return replace(films, losses_NK=np.full(films.losses_NK.shape, loss))


def test_film_known_by_heart_is_told_from_those_that_are_not(tiny_model: Model, reference: Reference) -> None:
    known = FilmSet(
        reference.canaries.records[:1], reference.canaries.patients[:1], reference.canaries.prompts[:1], reference.canaries.images_NHW[:1]
    )
    image_CHW = tiny_model.to_latents(torch.from_numpy(known.images_NHW).float() / 255)[0]
    memorizer = MemorizerModel.of(tiny_model, trigger=known.prompts[0], image_CHW=image_CHW)
    evaluation = Evaluation(memorizer, replace(reference, canaries=known), EFFORT)
    assert REWARDS["membership_advantage"](evaluation)["value"] == 1
    found = REWARDS["memorization"](evaluation)
    assert found["low"] > 0
    assert found["value"] == pytest.approx(REWARDS["noise_magnitude"](evaluation)["value"], abs=1e-5)  # nothing moves on controls


def test_images_that_are_the_real_films_are_as_good_as_can_be(seeing: Callable[..., Evaluation], of_one_kind: Reference) -> None:
    evaluation = seeing(of_one_kind, control_images=of_one_kind.controls.images_NHW)
    figures = {name: REWARDS[name](evaluation)["value"] for name in ("fid", "kid", "precision", "recall", "density", "coverage")}
    assert figures["fid"] == pytest.approx(0, abs=1e-6)
    assert figures["kid"] <= 0
    assert (figures["precision"], figures["recall"], figures["coverage"]) == (1, 1, 1)
    assert figures["density"] == pytest.approx(1)


def test_real_films_of_the_controls_score_the_floor(seeing: Callable[..., Evaluation], reference: Reference) -> None:
    evaluation = seeing(control_images=reference.controls.images_NHW)
    for name in ("fid", "kid"):
        found = REWARDS[name](evaluation)
        assert found["value"] == pytest.approx(reference.floors[name])
        assert found["low"] < found["value"] < found["high"]
    agreed = reader_agreement(reference.gallery.reader, reference.controls)
    assert REWARDS["prompt_agreement"](evaluation) == agreed


def test_images_that_are_all_alike_are_poor(seeing: Callable[..., Evaluation], reference: Reference) -> None:
    real = seeing(control_images=reference.controls.images_NHW)
    grey = seeing(control_images=np.full_like(reference.controls.images_NHW, 128))
    for name in ("fid", "kid", "precision", "density", "coverage"):
        worse, better = (REWARDS[name](evaluation)["value"] for evaluation in (grey, real))
        assert (worse > better) == (BUILT_IN[name] == "minimize"), name


def test_finding_agreement_looks_at_findings_alone(seeing: Callable[..., Evaluation], reference: Reference) -> None:
    controls = replace_prompts(reference.controls, "AP chest radiograph with support devices")
    view, device = ("view", "AP"), ("finding", "Support Devices")
    assert {view, device} <= set(reference.gallery.reader.items)
    evaluation = seeing(replace(reference, controls=controls), control_items=[frozenset({view})] * 4 + [frozenset({device})] * 3)
    assert REWARDS["finding_agreement"](evaluation)["value"] == pytest.approx(3 / 7)
    assert REWARDS["prompt_agreement"](evaluation)["value"] == pytest.approx(2 / 3)


def test_prompts_that_ask_for_no_finding_cannot_be_judged_by_them(seeing: Callable[..., Evaluation], reference: Reference) -> None:
    evaluation = seeing(
        replace(reference, controls=replace_prompts(reference.controls, "AP chest radiograph")), control_items=[frozenset()] * 7
    )
    with pytest.raises(ConflictError, match="No control prompt names a finding"):
        REWARDS["finding_agreement"](evaluation)
    assert REWARDS["prompt_agreement"](evaluation)["value"] == 0


def test_recall_of_too_few_images_is_refused(seeing: Callable[..., Evaluation], reference: Reference) -> None:
    with pytest.raises(ConflictError, match="too few for recall"):
        REWARDS["recall"](seeing(control_images=reference.controls.images_NHW[:5]))


def replace_prompts(films: FilmSet, prompt: str) -> FilmSet:
    return replace(films, prompts=[prompt] * len(films.prompts))
