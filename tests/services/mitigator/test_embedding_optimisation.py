"""Embedding optimisation: L falls, stops at its target before an update, and never touches the begin token."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from services.mitigator.embedding_optimisation import EmbeddingOptimisation, OptimisationParameters
from services.mitigator.strategy import Plan, Workbench
from shared.diffusion.model import Model
from shared.memorization.magnitude import screen
from tests.denoisers import PROMPTS, counted_forwards
from tests.services.mitigator.doubles import workbench


def loss(bench: Workbench, plan: Plan) -> float:
    """L = √(mean_j d_j²)."""
    return float(screen(bench.model, plan.conditioning, bench.screening_seeds, steps=1, cache=bench.cache).square().mean().sqrt())


def optimised(bench: Workbench, *, target: float, iterations: int = 200) -> tuple[Plan, int]:
    """The plan of PROMPTS[0], and how many updates it says it took."""
    strategy = EmbeddingOptimisation(OptimisationParameters(target=target, max_iterations=iterations))
    plan = strategy.apply(bench.plain(PROMPTS[0]), bench)
    (change,) = plan.changes
    return plan, int(change.removeprefix("moved the embedding in ").removesuffix(" iterations"))


def test_loss_falls_with_every_iteration_allowed(tiny: Model) -> None:
    bench = workbench(tiny)
    losses = [loss(bench, bench.plain(PROMPTS[0]))]
    for allowed in (1, 2, 4, 8):
        plan, taken = optimised(bench, target=1e-6, iterations=allowed)
        assert taken == allowed
        losses.append(loss(bench, plan))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


def test_optimisation_stops_before_an_update_as_soon_as_the_target_is_met(tiny: Model) -> None:
    bench = workbench(tiny)
    target = 0.7 * loss(bench, bench.plain(PROMPTS[0]))
    plan, taken = optimised(bench, target=target)
    assert 0 < taken < 200
    assert loss(bench, plan) <= target * (1 + 1e-4)
    one_less, _ = optimised(bench, target=1e-6, iterations=taken - 1)
    assert loss(bench, one_less) > target


def test_prompt_under_the_target_is_not_moved_at_all(tiny: Model) -> None:
    bench = workbench(tiny)
    plain = bench.plain(PROMPTS[0])
    plan, taken = optimised(bench, target=1.1 * loss(bench, plain))
    assert taken == 0
    assert torch.equal(plan.conditioning.embeddings_BLE, plain.conditioning.embeddings_BLE)


def test_target_of_the_calibration_is_used_where_none_is_asked(tiny: Model) -> None:
    bench = workbench(tiny)
    bench = workbench(tiny, target=0.9 * loss(bench, bench.plain(PROMPTS[0])))
    plan = EmbeddingOptimisation(OptimisationParameters(max_iterations=200)).apply(bench.plain(PROMPTS[0]), bench)
    assert 0.7 * bench.target < loss(bench, plan) <= bench.target * (1 + 1e-4)


def test_one_and_four_noises_stop_at_a_comparable_magnitude_per_image(tiny: Model) -> None:
    single, four = workbench(tiny, seeds=1), workbench(tiny, seeds=4)
    target = 0.7 * loss(four, four.plain(PROMPTS[0]))
    reached = [loss(bench, optimised(bench, target=target)[0]) for bench in (single, four)]
    assert all(0.8 * target < value <= target * (1 + 1e-4) for value in reached)  # a whole-batch norm would differ by 2


def test_begin_tokens_row_stays_bit_for_bit_and_the_others_move(tiny: Model) -> None:
    bench = workbench(tiny)
    before = bench.plain(PROMPTS[0]).conditioning
    after = optimised(bench, target=1e-6, iterations=3)[0].conditioning
    assert torch.equal(after.embeddings_BLE[:, 0], before.embeddings_BLE[:, 0])
    assert (after.embeddings_BLE[:, 1:] - before.embeddings_BLE[:, 1:]).abs().max() > 0.05
    assert torch.equal(after.token_ids_BL, before.token_ids_BL)
    assert not after.embeddings_BLE.requires_grad


def test_model_is_left_without_gradients(tiny: Model) -> None:
    optimised(workbench(tiny), target=1e-6, iterations=1)
    assert all(p.grad is None for part in (tiny.unet, tiny.text_encoder) for p in part.parameters())


@pytest.mark.parametrize(("seeds", "iterations"), [(1, 1), (4, 3)])
def test_forwards_count_every_row_and_a_backward_pass_as_two(tiny: Model, seeds: int, iterations: int) -> None:
    bench = workbench(tiny, seeds=seeds)
    with counted_forwards(tiny) as seen:
        plan, _ = optimised(bench, target=1e-6, iterations=iterations)
    assert seen.unconditional == seeds  # the cold cache, paid once
    assert seen.conditional == seeds * (iterations + 1)
    assert plan.forwards == seen.conditional + 2 * seeds * iterations


def test_papers_constants_are_the_defaults() -> None:
    assert OptimisationParameters().model_dump() == {"learning_rate": 0.05, "max_iterations": 10, "target": None}


@pytest.mark.parametrize("wrong", [{"target": 0}, {"max_iterations": 0}, {"max_iterations": 201}, {"learning_rate": float("nan")}])
def test_parameters_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        OptimisationParameters.model_validate(wrong)
