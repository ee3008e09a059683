"""Which samples batch filters leave out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.batch_filters import (
    NEAR,
    QUANTILE,
    TIMESTEPS_PER_BIN,
    WARM_VISITS,
    AntiGradientFilter,
    BatchFilter,
    JudgedBatch,
    MagnitudeFilter,
    TimestepMagnitudeFilter,
    open_batch_filter,
)
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


@pytest.mark.parametrize("judge", [MagnitudeFilter(), MagnitudeFilter(threshold=2.0)])
def test_magnitude_that_is_no_number_is_kept(judge: BatchFilter) -> None:
    assert judge(judged([1.0, math.nan, 0.0, 9.0, 1.0])).tolist() == [True, True, True, False, True]
    assert judge(judged([math.nan] * 5)).all()


# ---------------------------------------------------------------- magnitude by timestep


def magnitudes_at(magnitudes: Tensor, timesteps: Tensor, dropped: Tensor | None = None) -> JudgedBatch:
    """A batch of these magnitudes at these timesteps."""
    dropped = torch.zeros(len(timesteps), dtype=torch.bool) if dropped is None else dropped
    return JudgedBatch(torch.zeros(len(timesteps)), timesteps, dropped, lambda: magnitudes)


def shares_dropped(judge: BatchFilter, scale_T: Tensor, *, batches: int, after: int = 0, generator: torch.Generator) -> Tensor:
    """Of samples with d = scale(t) · e^{N(0, 1/4)}, four bins of timesteps: what share is dropped of each, from batch `after` on."""
    dropped, visits = torch.zeros(4), torch.zeros(4)
    for number in range(batches):
        t_B = torch.randint(0, 200, (16,), generator=generator)
        kept_B = judge(magnitudes_at(scale_T[t_B] * (0.5 * torch.randn(16, generator=generator)).exp(), t_B))
        if number >= after:
            visits.index_add_(0, t_B // TIMESTEPS_PER_BIN, torch.ones(16))
            dropped.index_add_(0, t_B // TIMESTEPS_PER_BIN, (~kept_B).float())
    return dropped / visits


def by_timestep(quantile: float = QUANTILE) -> TimestepMagnitudeFilter:
    """A filter of four bins."""
    return TimestepMagnitudeFilter(200, torch.device("cpu"), quantile)


def test_a_tenth_of_every_bin_is_dropped_whatever_its_scale() -> None:
    """Where the batch's own quantile drops by timestep: all from the bin with the largest d."""
    scale_T = torch.tensor([0.01, 1.0, 5.0, 400.0]).repeat_interleave(50)
    generator = torch.Generator().manual_seed(0)
    shares = shares_dropped(by_timestep(), scale_T, batches=3000, after=100, generator=generator)
    assert shares.tolist() == pytest.approx([0.1] * 4, abs=0.01)
    mixed = shares_dropped(MagnitudeFilter(), scale_T, batches=300, generator=generator)
    assert mixed[:3].max() < 0.02
    assert mixed[3] > 0.4


def test_share_dropped_follows_the_quantile_and_survives_a_change_of_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    half = by_timestep(quantile=0.5)
    assert shares_dropped(half, torch.ones(200), batches=2000, after=100, generator=generator) == pytest.approx(0.5, abs=0.02)
    judge = by_timestep()
    shares_dropped(judge, torch.ones(200), batches=300, generator=generator)
    jumped = shares_dropped(judge, torch.full((200,), 8.0), batches=2000, generator=generator)
    assert jumped == pytest.approx(0.1, abs=0.01)  # the jump is in it: ln 8 is 23 samples above the limit


def test_running_quantile_by_hand() -> None:
    judge, t = by_timestep(), torch.tensor([60, 99, 60])
    assert judge(magnitudes_at(torch.tensor([1.0, 4.0, 2.0]), t)).all()  # not warm
    assert judge.visits_K.tolist() == [0, 3, 0, 0]
    assert judge.limits_K[1] == pytest.approx(math.log(4.0))  # begins at the largest
    judge(magnitudes_at(torch.tensor([4.1, 1.0, 1.0]), t))
    assert judge.limits_K[1] == pytest.approx(math.log(4.0) + (1 - 3 * 0.1) / 3)  # η is 1/3 after three samples
    judge.visits_K.fill_(1000)
    limit = judge.limits_K[1].exp()
    assert judge(magnitudes_at(limit * torch.tensor([1.01, 0.99, 1.5]), t)).tolist() == [False, True, False]
    assert judge.limits_K[1] == pytest.approx(math.log(limit) + 0.1 * (2 - 3 * 0.1), abs=1e-6)
    assert judge.limits_K[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]


def test_samples_without_a_prompt_are_kept_and_tell_the_quantile_nothing() -> None:
    judge = by_timestep()
    judge.visits_K.fill_(WARM_VISITS)
    dropped = torch.tensor([True, False, False])
    kept = judge(magnitudes_at(torch.tensor([9.0, 9.0, 0.0]), torch.tensor([0, 50, 100]), dropped))
    assert kept.tolist() == [True, False, True]  # the third's prompt moves nothing: it is as good as none
    assert judge.visits_K.tolist() == [WARM_VISITS, WARM_VISITS + 1, WARM_VISITS, WARM_VISITS]
    assert judge.limits_K[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]
    assert by_timestep()(magnitudes_at(torch.zeros(3), torch.tensor([0, 50, 100]), torch.ones(3, dtype=torch.bool))).all()


def test_restored_quantiles_go_on() -> None:
    first, second = by_timestep(), by_timestep()
    generator = torch.Generator().manual_seed(2)
    shares_dropped(first, torch.ones(200), batches=100, generator=generator)
    second.restore(first.state().copied())
    one, other = (
        shares_dropped(judge, torch.ones(200), batches=50, generator=torch.Generator().manual_seed(3)) for judge in (first, second)
    )
    assert torch.equal(one, other)
    assert one.sum() > 0
    assert torch.equal(first.limits_K, second.limits_K)
    assert torch.equal(first.visits_K, second.visits_K)


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


def test_samples_just_above_the_limit_are_near() -> None:
    """λ = 1.25 and δ = 0.1: of the mean 0.2, below 0.16 is left out, below 0.18 is near; a timestep without a mean has no limit."""
    agc = AntiGradientFilter(1000, torch.device("cpu"), margin=0.1)
    assert agc(losses_at([1.0] * 6, [1, 2, 3, 4, 5, 6])).tolist() == [1] * 6
    verdicts = agc(losses_at([0.159, 0.161, 0.179, 0.181, 5.0, 0.161], [1, 2, 3, 4, 5, 900]))
    assert verdicts.tolist() == [0, NEAR, NEAR, 1, 1, 1]
    assert agc.bank_T[:7].tolist() == pytest.approx([0.0, 0.1918, 0.1922, 0.1958, 0.1962, 1.16, 0.2], rel=1e-4)


@pytest.mark.parametrize("margin", [None, 0.1])
def test_loss_that_is_no_number_is_kept_and_not_near(margin: float | None) -> None:
    """Neither at a timestep that has a mean, nor at one whose mean is no number any more."""
    agc = AntiGradientFilter(1000, torch.device("cpu"), margin=margin)
    agc(losses_at([1.0, 1.0], [1, 2]))
    assert agc(losses_at([math.nan, 0.1], [1, 2])).tolist() == [1, 0]
    assert agc(losses_at([0.001, math.nan], [1, 1])).tolist() == [1, 1]


@pytest.mark.parametrize(
    "rule",
    [
        AntiGradientRule(kind="anti_gradient"),
        MagnitudeRule(kind="magnitude"),
        MagnitudeRule(kind="magnitude", threshold=2.0),
        MagnitudeRule(kind="magnitude", by_timestep=True),
    ],
)
def test_training_that_diverged_shows_it(rule: AntiGradientRule | MagnitudeRule) -> None:
    """No filter leaves out what its network makes no number of: the step's loss is none, and who is told of it ends the training."""
    model = tiny_model()
    loss = DenoisingLoss(model, films(), Recipe(8, 4, 1e-3, 0.0, seed=0, batch_filter=open_batch_filter(rule)))
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(math.nan)
    assert all(value is not None and bool(value.isnan()) for value in map(loss, range(3)))


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_margin_changes_neither_mask_nor_bank(margin: float) -> None:
    generator = np.random.default_rng(1)
    plain, marking = AntiGradientFilter(10, torch.device("cpu")), AntiGradientFilter(10, torch.device("cpu"), margin=margin)
    verdicts = []
    for _ in range(60):
        batch = losses_at(generator.gamma(2.0, 0.1, 16).tolist(), generator.integers(0, 10, 16).tolist())
        before = plain.bank_T[batch.timesteps_B]
        verdicts.append(marking(batch))
        assert torch.equal(verdicts[-1] > 0, plain(batch))
        expected = (verdicts[-1] > 0) & (batch.losses_B < (0.8 + margin) * before)
        assert torch.equal(verdicts[-1] == NEAR, expected) or margin == 0.0
    assert torch.equal(plain.bank_T, marking.bank_T)
    assert bool((torch.stack(verdicts) == NEAR).any()) == (margin > 0)


def test_late_timesteps_are_never_left_out_nor_near() -> None:
    agc = AntiGradientFilter(1000, torch.device("cpu"), margin=0.1, until=600)
    timesteps = [599, 600, 599, 600]
    assert agc(losses_at([1.0, 1.0], [599, 600])).tolist() == [1, 1]
    assert agc(losses_at([0.1, 0.1, 0.17, 0.17], timesteps)).tolist() == [0, 1, NEAR, 1]
    assert float(agc.bank_T[599]) == float(agc.bank_T[600])


def test_restored_bank_goes_on() -> None:
    first, second = (AntiGradientFilter(10, torch.device("cpu")) for _ in range(2))
    first(losses_at([1.0, 2.0], [3, 3]))
    second.restore(first.state().copied())
    assert torch.equal(first(losses_at([0.3, 0.1], [3, 4])), second(losses_at([0.3, 0.1], [3, 4])))
    assert torch.equal(first.bank_T, second.bank_T)


@pytest.mark.parametrize(
    "rule",
    [
        AntiGradientRule(kind="anti_gradient", scale=1.0, decay=0.1),
        AntiGradientRule(kind="anti_gradient", scale=1.0, decay=0.1, augment_margin=0.5),
        MagnitudeRule(kind="magnitude", quantile=0.6),
    ],
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
    marks = rule.kind == "anti_gradient" and rule.augment_margin is not None
    assert (whole_loss.skips.totals()["augmented_samples"] > 0) == marks
    one, other = whole.state().tensors, resumed.state().tensors
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---------------------------------------------------------------- what a job is told


def test_rule_becomes_the_filter() -> None:
    model = tiny_model()
    assert open_batch_filter(MagnitudeRule(kind="magnitude"))(model) == MagnitudeFilter(None, QUANTILE)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", quantile=0.5))(model) == MagnitudeFilter(None, 0.5)
    assert open_batch_filter(MagnitudeRule(kind="magnitude", threshold=2.0))(model) == MagnitudeFilter(2.0)
    by_bin = open_batch_filter(MagnitudeRule(kind="magnitude", by_timestep=True, quantile=0.8))(model)
    assert isinstance(by_bin, TimestepMagnitudeFilter)
    assert (by_bin.quantile, len(by_bin.limits_K), by_bin.limits_K.device) == (0.8, 20, model.device)
    agc = open_batch_filter(AntiGradientRule(kind="anti_gradient", scale=2.0))(model)
    assert isinstance(agc, AntiGradientFilter)
    assert (agc.scale, agc.decay, len(agc.bank_T), agc.margin, agc.until) == (2.0, 0.8, 1000, None, None)
    agc = open_batch_filter(AntiGradientRule(kind="anti_gradient", augment_margin=0.1, until_timestep=600))(model)
    assert isinstance(agc, AntiGradientFilter)
    assert (agc.margin, agc.until) == (0.1, 600)
