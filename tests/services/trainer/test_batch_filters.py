"""Which samples batch filters leave out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from services.trainer.batch_filters import QUANTILE, JudgedBatch, MagnitudeFilter, open_batch_filter
from services.trainer.training_spec import MagnitudeRule
from tests.denoisers import tiny_model

DROPPED = torch.tensor([False, False, True, False, False])


def judged(magnitudes: list[float], dropped: Tensor = DROPPED) -> JudgedBatch:
    """A batch of these magnitudes."""
    return JudgedBatch(torch.zeros(len(magnitudes)), torch.arange(len(magnitudes)), dropped, lambda: torch.tensor(magnitudes))


def test_threshold_drops_what_reaches_it() -> None:
    kept = MagnitudeFilter(threshold=2.0)(judged([1.9, 2.0, 9.0, 2.1, 0.0]))
    assert kept.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize(("quantile", "expected"), [(0.5, [True, True, True, False, False]), (0.9, [True, True, True, True, False])])
def test_quantile_is_of_the_samples_with_a_prompt(quantile: float, expected: list[bool]) -> None:
    assert MagnitudeFilter(quantile=quantile)(judged([1.0, 2.0, 0.0, 3.0, 4.0])).tolist() == expected


def test_equal_magnitudes_are_all_kept() -> None:
    assert MagnitudeFilter()(judged([1.0] * 5)).all()


def test_batch_without_prompts_is_kept() -> None:
    assert MagnitudeFilter()(judged([0.0] * 3, torch.ones(3, dtype=torch.bool))).all()
    assert MagnitudeFilter(threshold=1.0)(judged([0.0] * 3, torch.ones(3, dtype=torch.bool))).all()


def test_rule_becomes_the_filter() -> None:
    model = tiny_model()
    assert open_batch_filter(MagnitudeRule(kind="magnitude"))(model) == MagnitudeFilter(None, QUANTILE)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", quantile=0.5))(model) == MagnitudeFilter(None, 0.5)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", threshold=2.0))(model) == MagnitudeFilter(2.0)
