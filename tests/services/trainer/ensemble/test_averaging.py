"""The average of what shards have learnt."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.ensemble.averaging import average_states, average_update, with_average
from shared.diffusion.checkpoints import State
from shared.diffusion.optimisation import Optimisation, Run
from tests.denoisers import tiny_model
from tests.training_films import films

RECIPE = Recipe(steps=4, batch_size=2, learning_rate=1e-3, prompt_dropout=0.1, seed=0)


def run(steps: int, seed: int = 0) -> Run:
    """A run of the tiny model after some steps."""
    recipe = replace(RECIPE, seed=seed)
    model = tiny_model()
    begun = Run(recipe.modules(model), DenoisingLoss(model, films(), recipe), recipe.optimisation)
    for _ in range(steps):
        begun.advance()
    return begun


def state_of(value: float, count: int = 7) -> State:
    """A state of one weight, its average and a counter."""
    tensors = {"modules/0.w": torch.tensor([value]), "modules/0.n": torch.tensor(count), "average/0": torch.tensor([-value])}
    return State(tensors | {"optimiser/0.exp_avg": torch.tensor([value])}, {"step": count})


# ---------------------------------------------------------------- plain weights


def test_average_is_weighted_by_size() -> None:
    averaged = average_states([(state_of(1.0), 10), (state_of(2.0), 20), (state_of(6.0), 10)], factored=False)
    assert {name: x.item() for name, x in averaged.tensors.items()} == {"modules/0.w": 2.75, "modules/0.n": 7, "average/0": -2.75}


@given(values=st.lists(st.tuples(st.floats(-10, 10, width=32), st.integers(1, 99)), min_size=1, max_size=6))
def test_average_is_the_weighted_mean_in_any_order(values: list[tuple[float, int]]) -> None:
    expected = sum(value * size for value, size in values) / sum(size for _, size in values)
    for order in (values, values[::-1]):
        averaged = average_states(((state_of(value), size) for value, size in order), factored=False)
        assert float(averaged.tensors["modules/0.w"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sizes", [(5,), (1, 2), (3, 1, 7)])
def test_equal_runs_come_out_bit_for_bit(sizes: tuple[int, ...]) -> None:
    whole = run(2).state().copied()
    averaged = average_states(((whole, size) for size in sizes), factored=False)
    assert averaged.tensors.keys() == {name for name in whole.tensors if name.startswith(("modules/", "average/"))}
    assert all(torch.equal(x, whole.tensors[name]) for name, x in averaged.tensors.items())


def test_states_are_not_changed() -> None:
    states = [state_of(1.0), state_of(3.0)]
    average_states([(state, 1) for state in states], factored=False)
    assert [float(state.tensors["modules/0.w"]) for state in states] == [1.0, 3.0]


def test_counters_that_differ_have_no_average() -> None:
    with pytest.raises(ValueError, match=r"modules/0\.n is counted in whole numbers"):
        average_states([(state_of(1.0, 7), 1), (state_of(1.0, 8), 1)], factored=False)


def test_run_goes_on_from_the_average_with_its_own_moments_and_streams() -> None:
    one, other = run(3, seed=0), run(2, seed=1)
    states = [one.state().copied(), other.state().copied()]
    averaged = average_states([(states[0], 1), (states[1], 3)], factored=False)
    one.restore(with_average(states[0], averaged))
    after = one.state().tensors
    name = "modules/0.conv_in.weight"
    torch.testing.assert_close(after[name], states[0].tensors[name] / 4 + states[1].tensors[name] * 3 / 4, rtol=1e-5, atol=1e-7)
    kept = [name for name in after if not name.startswith(("modules/", "average/"))]
    assert len(kept) > 10
    assert all(torch.equal(after[name], states[0].tensors[name]) for name in kept)
    assert (one.step, one.average.updates if one.average else None) == (3, 3)


# ---------------------------------------------------------------- low-rank updates


def dense_mean(pairs: list[tuple[Tensor, Tensor]], sizes: list[int]) -> Tensor:
    """Σ w_k B_k A_k, written out."""
    return torch.stack([size / sum(sizes) * B.double() @ A.double() for size, (A, B) in zip(sizes, pairs, strict=True)]).sum(0)


def random_pairs(count: int, rank: int, inputs: int, outputs: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Factors that have nothing in common."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)) for _ in range(count)]


@settings(deadline=None)
@given(count=st.integers(1, 5), rank=st.integers(1, 4), inputs=st.integers(4, 24), outputs=st.integers(4, 24), seed=st.integers(0, 9999))
def test_averaged_update_is_the_best_of_its_rank(count: int, rank: int, inputs: int, outputs: int, seed: int) -> None:
    pairs, sizes = random_pairs(count, rank, inputs, outputs, seed), [3, 1, 4, 1, 5][:count]
    A, B = average_update(pairs, sizes)
    mean = dense_mean(pairs, sizes)
    U, S, Vt = torch.linalg.svd(mean, full_matrices=False)
    assert (A.shape, B.shape, A.dtype) == ((rank, inputs), (outputs, rank), torch.float32)
    torch.testing.assert_close(B.double() @ A.double(), U[:, :rank] * S[:rank] @ Vt[:rank], rtol=1e-4, atol=1e-4)
    assert float((B.double() @ A.double() - mean).square().sum()) == pytest.approx(float(S[rank:].square().sum()), rel=1e-3, abs=1e-4)


def test_pairs_of_differing_ranks_are_averaged_each_at_its_own() -> None:
    small, large = random_pairs(2, 1, 8, 6, 0), random_pairs(2, 4, 12, 10, 1)
    states = [State({f"modules/0.chosen.{i}": x for i, x in enumerate((*one, *other))}) for one, other in zip(small, large, strict=True)]
    averaged = average_states(zip(states, [1, 3], strict=True), factored=True).tensors
    assert list(averaged) == [f"modules/0.chosen.{i}" for i in range(4)]
    given_tensors = list(averaged.values())
    for pairs, (A, B) in ((small, given_tensors[:2]), (large, given_tensors[2:])):
        expected_A, expected_B = average_update(pairs, [1, 3])
        assert torch.equal(A, expected_A)
        assert torch.equal(B, expected_B)


def test_averages_of_factors_would_be_another_update() -> None:
    pairs, sizes = random_pairs(2, 3, 8, 6, 0), [1, 1]
    (A, B), mean = average_update(pairs, sizes), dense_mean(pairs, sizes)
    naive = (pairs[0][1] + pairs[1][1]) @ (pairs[0][0] + pairs[1][0]) / 4
    assert float((naive - mean).norm()) > 1.5 * float((B @ A - mean).norm())


def test_the_same_update_in_other_factors_keeps_it() -> None:
    ((A, B),) = random_pairs(1, 3, 10, 7, 1)
    turn = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    averaged_A, averaged_B = average_update([(A, B), (turn @ A, B @ torch.linalg.inv(turn))], [1, 2])
    torch.testing.assert_close(averaged_B @ averaged_A, B @ A, rtol=1e-4, atol=1e-5)


def test_factors_stay_near_those_that_shards_began_with() -> None:
    """Turned factors would have the same product, but Adam's moments and the running averages would be of others."""
    ((A, B),) = random_pairs(1, 4, 32, 16, 2)
    drifts = random_pairs(3, 4, 32, 16, 3)
    pairs = [(A + 0.01 * a, B + 0.01 * b) for a, b in drifts]
    averaged_A, averaged_B = average_update(pairs, [1, 1, 1])
    mean_A, mean_B = (torch.stack(parts).mean(0) for parts in zip(*pairs, strict=True))
    assert float((averaged_A - mean_A).norm()) < 0.02 * float(A.norm())
    assert float((averaged_B - mean_B).norm()) < 0.02 * float(B.norm())


def test_update_of_less_than_its_rank_leaves_no_direction_dead() -> None:
    """Where B is 0 but in one column, A must stay, for with both 0 neither would learn again."""
    pairs = random_pairs(2, 4, 12, 9, 4)
    for _, B in pairs:
        B[:, 1:] = 0
    A, B = average_update(pairs, [1, 1])
    torch.testing.assert_close(B.double() @ A.double(), dense_mean(pairs, [1, 1]), rtol=1e-4, atol=1e-5)
    values = torch.linalg.svdvals(A)
    assert float(values.min() / values.max()) > 0.09


class Pairs(nn.Module):
    """Two low-rank updates as a list of parameters."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        parts = [part for pair in random_pairs(2, 2, 6, 5, seed) for part in pair]
        self.chosen = nn.ParameterList([*parts, *(part.clone() for pair in random_pairs(4, 2, 6, 5, seed + 50) for part in pair)])


def low_rank_run(seed: int) -> Run:
    """A run over six pairs, one step in."""
    pairs = Pairs(seed)

    def loss(_step: int) -> Tensor:
        return torch.stack([part.square().sum() for part in pairs.chosen]).sum()

    begun = Run([pairs], loss, Optimisation(4, 1e-2, ema_decay=0.9))
    begun.advance()
    return begun


def test_pairs_of_a_run_are_averaged_as_updates() -> None:
    states = [low_rank_run(seed).state().copied() for seed in (0, 7)]
    averaged = average_states([(states[0], 1), (states[1], 3)], factored=True)
    assert averaged.tensors.keys() == {name for name in states[0].tensors if name.startswith(("modules/", "average/"))}
    assert len(averaged.tensors) == 24
    for stem in ("modules/0.chosen.", "average/"):
        for a, b in pairwise(range(12)):
            if a % 2:
                continue
            names = f"{stem}{a}", f"{stem}{b}"
            mean = dense_mean([(state.tensors[names[0]], state.tensors[names[1]]) for state in states], [1, 3])
            U, S, Vt = torch.linalg.svd(mean, full_matrices=False)
            product = averaged.tensors[names[1]] @ averaged.tensors[names[0]]
            torch.testing.assert_close(product.double(), U[:, :2] * S[:2] @ Vt[:2], rtol=1e-4, atol=1e-4)


def test_equal_pairs_come_out_bit_for_bit() -> None:
    whole = low_rank_run(0).state().copied()
    for sizes in ((4,), (1, 2, 3)):
        averaged = average_states(((whole, size) for size in sizes), factored=True)
        assert all(torch.equal(x, whole.tensors[name]) for name, x in averaged.tensors.items())
