"""The training loop: average, clipping, batches that do not count, and the same result for the same seed."""

from __future__ import annotations

import json
from itertools import count, cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.diffusion.checkpoints import State
from shared.diffusion.optimisation import ExponentialMovingAverage, Optimisation, Run, optimise
from shared.diffusion.random_streams import TorchStream


def line(seed: int = 0) -> nn.Linear:
    """A small network."""
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def fitting(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Points and the plane that they lie on."""
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    return x, x @ torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.5, 0.5]]) + network(x).detach() * 0


def test_average_ramps_up_to_its_decay() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = ExponentialMovingAverage([parameter], decay=0.5)
    expected = 0.0
    for update in range(1, 12):
        with torch.no_grad():
            parameter.fill_(float(update))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        assert float(average.average[0]) == pytest.approx(expected, abs=1e-5)
    assert average.updates == 11
    average.apply()
    assert float(parameter.detach()) == pytest.approx(expected, abs=1e-5)


def test_first_update_of_the_average_hardly_remembers_the_random_start() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = ExponentialMovingAverage([parameter], decay=0.999)
    with torch.no_grad():
        parameter.fill_(11.0)
    average.update()
    assert float(average.average[0]) == pytest.approx(9.0)  # decay 2/11


def test_average_is_a_copy_and_follows_only_when_told() -> None:
    network = line()
    average = ExponentialMovingAverage(list(network.parameters()), decay=0.9)
    with torch.no_grad():
        network.weight.add_(1.0)
    torch.testing.assert_close(average.average[0], network.weight - 1.0)


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 9, 10, 14, 19, 30])
def test_every_length_of_plan_runs_and_reports_each_step(steps: int) -> None:
    network = line()
    x, y = fitting(network)
    seen: list[int] = []
    optimise([network], lambda _step: (network(x) - y).square().mean(), Optimisation(steps, 0.1), lambda step, _loss: seen.append(step))
    assert seen == list(range(steps))


def test_loop_fits_a_plane_and_leaves_evaluation_mode() -> None:
    network = nn.Sequential(line(), nn.Dropout(0.0))
    x, y = fitting(network)
    losses: list[float] = []

    def loss(_step: int) -> Tensor:
        assert network.training
        return (network(x) - y).square().mean()

    optimise([network], loss, Optimisation(300, 0.1), lambda _step, value: losses.append(float(value)))
    assert losses[0] > 0.5
    assert losses[-1] < 1e-4
    assert not network.training


def test_averaged_weights_are_left_in_the_network() -> None:
    network = line()
    x, y = fitting(network)
    weights: list[Tensor] = []

    def loss(_step: int) -> Tensor:
        weights.append(network.weight.detach().clone())
        return (network(x) - y).square().mean()

    optimise([network], loss, Optimisation(3, 0.1, ema_decay=0.9))
    plain = line()
    optimise([plain], lambda _step: (plain(x) - y).square().mean(), Optimisation(3, 0.1))
    average = weights[0]
    for update, weight in enumerate([*weights[1:], plain.weight.detach()], start=1):
        average = torch.lerp(average, weight, 1 - (1 + update) / (10 + update))
    torch.testing.assert_close(network.weight.detach(), average)


def test_same_start_gives_same_weights() -> None:
    networks = [line(), line()]
    for network in networks:
        x, y = fitting(network)
        optimise([network], lambda _step, n=network, x=x, y=y: (n(x) - y).square().mean(), Optimisation(20, 0.1, ema_decay=0.9))
    assert torch.equal(networks[0].weight, networks[1].weight)


def test_run_in_several_stretches_is_one_run() -> None:
    whole, parts = line(), line()
    seen: list[int] = []
    for network, stretches in ((whole, [20]), (parts, [7, 7, 13, 20])):
        x, y = fitting(network)
        run = Run([network], lambda _step, n=network, x=x, y=y: (n(x) - y).square().mean(), Optimisation(20, 0.1, ema_decay=0.9))
        for end in stretches:
            run.advance_until(end, lambda step, _loss: seen.append(step))
            assert run.step == end
        run.finish()
    assert seen == list(range(20)) * 2
    assert torch.equal(whole.weight, parts.weight)


def test_run_adopts_weights_and_average_of_another_and_nothing_else() -> None:
    runs = []
    for seed, steps in ((0, 3), (1, 5)):
        network = line(seed)
        x, y = fitting(network)
        run = Run([network], lambda _step, n=network, x=x, y=y: (n(x) - y).square().mean(), Optimisation(20, 0.1, ema_decay=0.9))
        run.advance_until(steps)
        runs.append(run)
    mine, other = runs
    before, wanted = mine.state().copied(), other.state().copied()
    mine.adopt(wanted)
    now = mine.state()
    for part in ("modules", "average", "optimiser"):
        expected = (before if part == "optimiser" else wanted).part(part)
        assert now.part(part).facts == expected.facts
        assert all(torch.equal(now.part(part).tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert mine.step == 3


def test_loss_of_none_moves_nothing() -> None:
    """Steps 1 and 3 count for nothing: weights, Adam's moments, rate and average are those of a run without them."""
    x, y = fitting(line())
    skipping = line()
    counted: list[int] = []
    states: list[Tensor] = []

    def loss(step: int) -> Tensor | None:
        states.append(skipping.weight.detach().clone())
        return None if step in {1, 3} else (skipping(x) - y).square().mean()

    optimise([skipping], loss, Optimisation(5, 0.1, ema_decay=0.9), lambda step, _loss: counted.append(step))
    assert counted == [0, 2, 4]
    assert torch.equal(states[1], states[2])
    assert torch.equal(states[3], states[4])

    straight = line()
    stop = RuntimeError("three steps done")
    reached: list[Tensor] = []

    def three(step: int) -> Tensor:
        reached.append(straight.weight.detach().clone())
        if step == 3:
            raise stop
        return (straight(x) - y).square().mean()

    with pytest.raises(RuntimeError, match="three steps done"):
        optimise([straight], three, Optimisation(5, 0.1, ema_decay=0.9))
    torch.testing.assert_close([states[0], states[1], states[3]], reached[:3], rtol=0, atol=0)


def test_plan_whose_losses_are_all_none_leaves_the_weights() -> None:
    network = line()
    before = network.weight.detach().clone()
    optimise([network], lambda _step: None, Optimisation(4, 0.1, ema_decay=0.9))
    assert torch.equal(network.weight, before)


def test_gradient_is_clipped_to_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    network = line()
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: object, **words: object) -> object:
        norms.append(
            float(torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]).norm())
        )
        return step(self, *args, **words)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    optimise([network], lambda _step: network.weight.sum() * 1000, Optimisation(3, 1e-3, clip_norm=0.25))
    assert norms == pytest.approx([0.25] * 3, rel=1e-4)


def test_frozen_parameters_stay() -> None:
    network = line()
    network.bias.requires_grad_(False)
    before = network.bias.detach().clone()
    x, y = fitting(network)
    optimise([network], lambda _step: (network(x) - y).square().mean(), Optimisation(5, 0.1, ema_decay=0.9))
    assert torch.equal(network.bias, before)


def test_observer_that_raises_stops_the_loop() -> None:
    network = line()

    def stop(step: int, _loss: Tensor) -> None:
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        optimise([network], lambda _step: network.weight.square().sum(), Optimisation(100, 0.1), stop)


def test_rate_rises_then_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    network = line()
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: object, **words: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **words)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    optimise([network], lambda _step: network.weight.square().sum(), Optimisation(40, 0.1, warm_up=0.25))
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert 8 <= top <= 11
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.001


# ---------------------------------------------------------------- schedules and accumulation


def rates_of(plan: Optimisation, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step."""
    network = line()
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: object, **words: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **words)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    optimise([network], lambda _step: network.weight.square().sum(), plan)
    return rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_rate_follows_its_schedule_after_a_straight_rise(schedule: Any, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    rates = rates_of(Optimisation(6, 0.1, schedule=schedule, warm_up=1 / 3), monkeypatch)
    assert rates == pytest.approx([0.1 * share for share in expected])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_never_leave_a_step_without_rate(schedule: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(rates_of(Optimisation(steps, 0.1, schedule=schedule, warm_up=0.0), monkeypatch)) > 0


class Rated(nn.Module):
    """A line whose bias learns at a rate of its own."""

    def __init__(self, rate: float | None) -> None:
        super().__init__()
        self.line = line()
        self.rate = rate

    def rated_parameters(self) -> list[tuple[nn.Parameter, float | None]]:
        """Weight and bias."""
        return [(self.line.weight, None), (self.line.bias, self.rate)]


@pytest.mark.parametrize("schedule", ["one_cycle", "constant", "linear", "cosine"])
def test_groups_follow_the_schedule_from_their_own_peaks(schedule: Any) -> None:
    rated = Rated(1e-4)
    run = Run(
        [rated], lambda _step: (rated.line(torch.ones(1, rated.line.in_features))).square().sum(), Optimisation(8, 0.1, schedule=schedule)
    )
    seen = []
    for _ in range(8):
        seen.append([group["lr"] for group in run.optimiser.param_groups])
        run.advance()
    assert [weight for weight, _ in seen] == pytest.approx([1000 * bias for _, bias in seen])
    assert max(weight for weight, _ in seen) == pytest.approx(0.1, rel=0.05)
    assert len({weight for weight, _ in seen}) > 1 or schedule == "constant"


def test_rates_that_are_the_plans_make_no_groups() -> None:
    ended = []
    for rated in (Rated(None), Rated(0.1), nn.Sequential(line())):
        first = rated.line if isinstance(rated, Rated) else rated[0]
        run = Run([rated], lambda _step, first=first: first(torch.ones(1, first.in_features)).square().sum(), Optimisation(5, 0.1))
        run.advance_until(5)
        assert len(run.optimiser.param_groups) == 1
        ended.append(torch.cat([p.detach().flatten() for p in first.parameters()]))
    assert torch.equal(ended[0], ended[2])
    assert torch.equal(ended[1], ended[2])


def test_accumulated_batches_equal_one_large_batch() -> None:
    x, y = fitting(line())
    whole, parts = line(), line()
    optimise([whole], lambda _step: (whole(x) - y).square().mean(), Optimisation(10, 0.1))
    halves = cycle([(x[:16], y[:16]), (x[16:], y[16:])])
    told: list[float] = []

    def half(_step: int) -> Tensor:
        inputs, wanted = next(halves)
        return (parts(inputs) - wanted).square().mean()

    optimise([parts], half, Optimisation(10, 0.1, accumulation=2), lambda _step, value: told.append(float(value)))
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
    assert told[0] == pytest.approx(float((line()(x) - y).square().mean().detach()), rel=1e-4)


def test_accumulated_batch_that_does_not_count_leaves_the_mean_of_the_others() -> None:
    x, y = fitting(line())
    whole, parts = line(), line()
    optimise([whole], lambda _step: (whole(x) - y).square().mean(), Optimisation(5, 0.1))
    calls = count()
    optimise([parts], lambda _step: None if next(calls) % 2 else (parts(x) - y).square().mean(), Optimisation(5, 0.1, accumulation=2))
    assert torch.equal(parts.weight, whole.weight)


# ---------------------------------------------------------------- going on


class NoisyLoss:
    """A loss with a random stream of its own, which also draws from the global one."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.generator = torch.Generator().manual_seed(4)

    def __call__(self, _step: int) -> Tensor:
        x = torch.randn(8, 3, generator=self.generator) + 0.1 * torch.rand(8, 3)
        return (self.network(x) - x[:, :2]).square().mean()

    def state(self) -> State:
        return TorchStream(self.generator).state()

    def restore(self, state: State) -> None:
        TorchStream(self.generator).restore(state)


class Kept:
    """Checkpoints that keep one state in memory, and may stop after it."""

    def __init__(self, at: int, state: State | None = None) -> None:
        self.at = at
        self.kept = state
        self.resumed = -1

    def resume(self, run: Run) -> None:
        if self.kept is not None:
            run.restore(self.kept)
        self.resumed = run.step

    def after_step(self, run: Run) -> None:
        if run.step == self.at:
            kept = run.state().copied()
            self.kept = State(kept.tensors, json.loads(json.dumps(kept.facts)))
            raise InterruptedError


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("stopped_at", [1, 4, 9, 10])
def test_stopped_run_goes_on_to_the_same_bits(stopped_at: int, schedule: Any) -> None:
    plan = Optimisation(10, 0.1, ema_decay=0.9, schedule=schedule)
    whole = line()
    torch.manual_seed(9)
    losses: list[float] = []
    optimise([whole], NoisyLoss(whole), plan, lambda _step, value: losses.append(float(value)))

    first = line()
    torch.manual_seed(9)
    checkpoints = Kept(stopped_at)
    with pytest.raises(InterruptedError):
        optimise([first], NoisyLoss(first), plan, checkpoints=checkpoints)
    torch.manual_seed(1)  # another process has other streams, and other weights to begin with
    second = line(3)
    later: list[float] = []
    going_on = Kept(0, checkpoints.kept)
    optimise([second], NoisyLoss(second), plan, lambda _step, value: later.append(float(value)), going_on)
    assert going_on.resumed == stopped_at
    assert later == losses[stopped_at:]
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)


def test_state_holds_optimiser_average_and_counters() -> None:
    network = line()
    checkpoints = Kept(3)
    with pytest.raises(InterruptedError):
        optimise([network], NoisyLoss(network), Optimisation(10, 0.1, ema_decay=0.9), checkpoints=checkpoints)
    assert checkpoints.kept is not None
    assert checkpoints.kept.facts["step"] == 3
    assert checkpoints.kept.part("average").facts == {"updates": 3}
    assert checkpoints.kept.part("optimiser").tensors["0.step"].item() == 3
    assert {"0.exp_avg", "1.exp_avg_sq"} <= set(checkpoints.kept.part("optimiser").tensors)
    assert checkpoints.kept.part("rates").facts["last_epoch"] == 3
    assert set(checkpoints.kept.part("loss").tensors) == {"state"}
    assert "torch" in checkpoints.kept.part("streams").tensors


def test_look_at_the_average_changes_nothing() -> None:
    seen: list[tuple[Tensor, bool]] = []

    class Looking:
        def resume(self, run: Run) -> None:
            del run

        def after_step(self, run: Run) -> None:
            before = run.modules[0].weight.detach().clone()
            with run.averaged():
                seen.append((run.modules[0].weight.detach().clone(), run.modules.training))
            assert torch.equal(run.modules[0].weight, before)
            assert run.modules.training

    networks = [line(), line()]
    for network, checkpoints in zip(networks, (None, Looking()), strict=True):
        torch.manual_seed(2)
        optimise([network], NoisyLoss(network), Optimisation(5, 0.1, ema_decay=0.9), checkpoints=checkpoints)
    assert torch.equal(networks[0].weight, networks[1].weight)
    assert torch.equal(seen[-1][0], networks[0].weight)
    assert seen[-1][1] is False
