"""Which samples batch filters leave out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.batch_filters import QUANTILE, AntiGradientFilter, JudgedBatch, MagnitudeFilter, open_batch_filter
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.filter_rules import AntiGradientRule, MagnitudeRule
from shared.diffusion.checkpoints import State
from shared.diffusion.optimisation import Run
from tests.denoisers import tiny_model
from tests.training_films import films

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


# ---------------------------------------------------------------- anti-gradient control


def losses_at(losses: list[float], timesteps: list[int]) -> JudgedBatch:
    """A batch with these losses."""
    return JudgedBatch(torch.tensor(losses), torch.tensor(timesteps), torch.zeros(len(losses), dtype=torch.bool), torch.Tensor)


def in_a_loop(bank: dict[int, float], losses: list[float], timesteps: list[int], scale: float, decay: float) -> list[bool]:
    """The published rule, sample by sample: judged by the bank as it was, then all update it in order."""
    kept = [scale * loss >= bank.get(t, 0.0) for loss, t in zip(losses, timesteps, strict=True)]
    for loss, t in zip(losses, timesteps, strict=True):
        bank[t] = decay * bank.get(t, 0.0) + (1 - decay) * loss
    return kept


def test_anti_gradient_rule_by_hand() -> None:
    agc = AntiGradientFilter(1000, torch.device("cpu"))
    assert agc(losses_at([1.0], [7])).tolist() == [True]
    assert float(agc.bank_T[7]) == pytest.approx(0.2)
    assert agc(losses_at([0.15], [7])).tolist() == [False]  # 1.25 · 0.15 = 0.1875 < 0.2
    assert float(agc.bank_T[7]) == pytest.approx(0.19)
    assert int((agc.bank_T != 0).sum()) == 1


@pytest.mark.parametrize(("scale", "decay"), [(1.25, 0.8), (2.0, 0.5), (1.0, 0.0)])
def test_anti_gradient_filter_equals_the_loop(scale: float, decay: float) -> None:
    generator = np.random.default_rng(0)
    agc, bank = AntiGradientFilter(10, torch.device("cpu"), scale=scale, decay=decay), dict[int, float]()
    decided = []
    for _ in range(50):
        losses, timesteps = generator.gamma(2.0, 0.1, 16).tolist(), generator.integers(0, 10, 16).tolist()
        decided.append(agc(losses_at(losses, timesteps)).tolist())
        assert decided[-1] == in_a_loop(bank, losses, timesteps, scale, decay)
        assert agc.bank_T.tolist() == pytest.approx([bank.get(t, 0.0) for t in range(10)], rel=1e-5)
    assert 100 < sum(not kept for row in decided for kept in row) < 700


def test_restored_bank_goes_on() -> None:
    first, second = (AntiGradientFilter(10, torch.device("cpu")) for _ in range(2))
    first(losses_at([1.0, 2.0], [3, 3]))
    second.restore(first.state().copied())
    assert torch.equal(first(losses_at([0.3, 0.1], [3, 4])), second(losses_at([0.3, 0.1], [3, 4])))
    assert torch.equal(first.bank_T, second.bank_T)


@pytest.mark.parametrize(
    "rule", [AntiGradientRule(kind="anti_gradient", scale=1.0, decay=0.1), MagnitudeRule(kind="magnitude", quantile=0.6)]
)
def test_run_that_was_ended_goes_on_with_what_its_filter_knows(rule: AntiGradientRule | MagnitudeRule) -> None:
    def few_timesteps(count: int, _total: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 3, (count,), generator=generator)

    recipe = Recipe(8, 4, 1e-3, 0.1, seed=0, batch_filter=open_batch_filter(rule), timesteps=few_timesteps)

    def begun() -> tuple[Run, DenoisingLoss]:
        model = tiny_model()
        loss = DenoisingLoss(model, films(), recipe)
        return Run(recipe.modules(model), loss, recipe.optimisation), loss

    whole, whole_loss = begun()
    for _ in range(3):
        whole.advance()
    kept = whole.state().copied()
    for _ in range(3):
        whole.advance()
    resumed, resumed_loss = begun()
    resumed.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    for _ in range(3):
        resumed.advance()
    assert whole_loss.skips.totals() == resumed_loss.skips.totals()
    assert whole_loss.skips.totals()["skipped_samples"] > 0
    one, other = whole.state().tensors, resumed.state().tensors
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---------------------------------------------------------------- what a job is told


def test_rule_becomes_the_filter() -> None:
    model = tiny_model()
    assert open_batch_filter(MagnitudeRule(kind="magnitude"))(model) == MagnitudeFilter(None, QUANTILE)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", quantile=0.5))(model) == MagnitudeFilter(None, 0.5)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", threshold=2.0))(model) == MagnitudeFilter(2.0)
    agc = open_batch_filter(AntiGradientRule(kind="anti_gradient", scale=2.0))(model)
    assert isinstance(agc, AntiGradientFilter)
    assert (agc.scale, agc.decay, len(agc.bank_T)) == (2.0, 0.8, 1000)
