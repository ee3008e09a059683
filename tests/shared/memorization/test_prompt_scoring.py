"""Scores of many prompts: the same in any batches, and refused where a model answers no numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.errors import ConflictError
from shared.memorization import prompt_scoring
from shared.memorization.prompt_scoring import ScreeningSettings, require_finite, score_prompts

if TYPE_CHECKING:
    from shared.diffusion.model import Model

SETTINGS = ScreeningSettings(steps=1, seeds_per_prompt=2, seed=0)


def test_repeated_prompts_are_scored_once_and_counted_as_often_as_they_are_there(tiny_model: Model) -> None:
    seen: list[int] = []
    scores = score_prompts(tiny_model, ["a", "b", "a"], SETTINGS, seen.append)
    assert scores[0] == pytest.approx(scores[2], rel=1e-4)
    assert seen == [3]


def test_scores_do_not_depend_on_the_batches(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["AP chest radiograph", "PA chest radiograph", "edema"]
    together = score_prompts(tiny_model, prompts, SETTINGS)
    monkeypatch.setattr(prompt_scoring, "PROMPTS_AT_ONCE", 2)
    assert score_prompts(tiny_model, prompts, SETTINGS) == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_that_answers_no_numbers_is_refused(value: float) -> None:
    with pytest.raises(ConflictError, match="no finite number"):
        require_finite([0.5, value])


def test_noises_of_a_screening_are_numbered_from_its_seed() -> None:
    assert ScreeningSettings(steps=1, seeds_per_prompt=3, seed=2**53 - 2).seeds == [2**53 - 2, 2**53 - 1, 0]
