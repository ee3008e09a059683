"""What a shard's loss keeps after films have come and gone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.batch_filters import open_batch_filter
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.ensemble.moved import move_deck
from services.trainer.filter_rules import AntiGradientRule
from shared.diffusion.checkpoints import State
from tests.denoisers import tiny_model
from tests.training_films import films

RULE = AntiGradientRule(kind="anti_gradient", augment_margin=0.5)
RECIPE = Recipe(8, 3, 1e-3, 0.1, seed=0, batch_filter=open_batch_filter(RULE), text_encoder="frozen")
FILMS = replace(films(), records=np.array([10, 11, 12, 13]))


def loss_of(rows: list[int], batches: int = 0) -> DenoisingLoss:
    """The loss of a shard of these films after some batches, all of them marked."""
    loss = DenoisingLoss(tiny_model(), FILMS.subset(np.array(rows)), RECIPE)
    for _ in range(batches):
        loss(0)
    return loss


def test_nothing_but_counts_changes_where_nothing_moved() -> None:
    kept = loss_of([0, 2, 3], batches=3).state().copied()
    records = FILMS.records[[0, 2, 3]]
    moved = move_deck(kept, records, records)
    assert moved.facts == kept.facts
    assert moved.tensors.keys() == kept.tensors.keys()
    changed = {name for name in kept.tensors if not torch.equal(kept.tensors[name], moved.tensors[name])}
    assert changed <= {"skips/visits", "skips/skips", "skips/augmented"}
    assert "skips/visits" in changed
    assert not any(moved.tensors[name].any() for name in changed)


def test_epoch_goes_on_without_those_that_left_and_with_those_that_stayed() -> None:
    """Films 0, 2 and 3 before, 1, 2 and 3 afterwards: of the present epoch the same of 2 and 3 are dealt, and 1 from the next on."""
    kept = loss_of([0, 2, 3], batches=3).state().copied()
    old, new = FILMS.records[[0, 2, 3]], FILMS.records[[1, 2, 3]]
    waiting = [int(old[row]) for row in kept.tensors["deck/waiting"]]
    assert 10 in waiting
    loss = loss_of([1, 2, 3])
    loss.restore(move_deck(kept, old, new))
    stayed = [record for record in waiting if record != 10]
    assert [int(new[row]) for row in loss.deck.waiting] == stayed
    dealt = np.concatenate([next(loss.deck) for _ in range(4)])
    assert [int(new[row]) for row in dealt[: len(stayed)]] == stayed
    assert np.bincount(dealt[len(stayed) : len(stayed) + 7], minlength=3).tolist() == [1, 1, 5]


def test_marks_stay_with_their_films_and_the_rest_is_kept() -> None:
    kept = loss_of([0, 2, 3], batches=1).state().copied()
    kept.tensors["marks/marks"][:] = torch.tensor([True, False, True])
    moved = move_deck(kept, FILMS.records[[0, 2, 3]], FILMS.records[[3, 1, 0, 2]])
    assert moved.tensors["marks/marks"].tolist() == [True, False, True, False]
    assert all(moved.tensors[f"skips/{name}"].tolist() == [0] * 4 for name in ("visits", "skips", "augmented"))
    assert torch.equal(moved.tensors["filter/bank"], kept.tensors["filter/bank"])
    assert moved.facts == kept.facts


def test_loss_without_a_filter_moves_too() -> None:
    kept = DenoisingLoss(tiny_model(), FILMS, replace(RECIPE, batch_filter=None)).state().copied()
    moved = move_deck(kept, FILMS.records, FILMS.records[1:])
    assert moved.tensors.keys() == kept.tensors.keys()


@given(waiting=st.lists(st.integers(0, 5), max_size=30), new=st.permutations(list(range(9))), kept=st.integers(1, 9))
def test_dealt_films_are_those_that_stayed_in_their_order(waiting: list[int], new: list[int], kept: int) -> None:
    old, records = np.arange(6), np.array(new[:kept])
    moved = move_deck(State({"deck/waiting": torch.tensor(waiting, dtype=torch.int64)}), old, records)
    assert [int(records[row]) for row in moved.tensors["deck/waiting"]] == [film for film in waiting if film in records]
