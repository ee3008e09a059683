"""Which film is shown when."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from shared.diffusion.checkpoints import State
from shared.errors import DatasetError
from tests.training_films import films


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8, 20])
def test_each_film_is_shown_its_repeats_in_every_epoch(batch_size: int) -> None:
    repeats = (1, 2, 0, 5)
    visits = np.concatenate(list(islice(films(repeats).visits(batch_size, np.random.default_rng(0)), 24)))
    for epoch in range(len(visits) // 8):
        assert np.bincount(visits[epoch * 8 : epoch * 8 + 8], minlength=4).tolist() == list(repeats)


def test_batches_are_full_and_run_across_epochs() -> None:
    batches = list(islice(films().visits(3, np.random.default_rng(0)), 10))
    assert [len(batch) for batch in batches] == [3] * 10


def test_epochs_are_shuffled_anew_and_follow_their_generator() -> None:
    first, again, other = (list(islice(films().visits(8, np.random.default_rng(seed)), 3)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_nothing_to_show_is_an_error_not_a_hang() -> None:
    with pytest.raises(DatasetError, match="no film is to be shown"):
        films((0, 0, 0, 0)).visits(2, np.random.default_rng(0))


def test_films_of_no_data_set_have_numbers_patients_and_no_labels() -> None:
    plain = films()
    assert (plain.records.tolist(), plain.patients.tolist(), plain.strata) == ([0, 1, 2, 3], [0, 1, 2, 3], [""] * 4)


def test_subset_keeps_what_is_known_of_its_films() -> None:
    whole = replace(films(), records=np.array([10, 11, 12, 13]), patients=np.array([0, 1, 1, 2]), strata=["a", "b", "", "a"])
    part = whole.subset(np.array([3, 1]))
    assert np.array_equal(part.images_NHW, whole.images_NHW[[3, 1]])
    assert part.prompts == [whole.prompts[3], whole.prompts[1]]
    assert part.repeats.tolist() == [5, 1]
    assert (part.records.tolist(), part.patients.tolist(), part.strata) == ([13, 11], [2, 1], ["a", "b"])
    assert films().subset(np.array([2])).records.tolist() == [2]


def test_deck_that_is_restored_deals_on() -> None:
    whole = films().visits(3, np.random.default_rng(0))
    dealt = [next(whole).tolist() for _ in range(9)]
    first = films().visits(3, np.random.default_rng(0))
    assert [next(first).tolist() for _ in range(4)] == dealt[:4]
    kept = first.state()
    assert [next(first).tolist() for _ in range(5)] == dealt[4:]  # what was kept does not move with it
    second = films().visits(3, np.random.default_rng(99))
    second.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    assert [next(second).tolist() for _ in range(5)] == dealt[4:]
