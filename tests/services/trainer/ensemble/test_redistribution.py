"""Which patients go from shard to shard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.ensemble.redistribution import redistribute


@st.composite
def rounds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shards, patients, visits and skips of films; every shard has a patient, and patients are in one shard."""
    patients = np.array(draw(st.lists(st.integers(0, 30), min_size=4, max_size=80)))
    patients[:4] = [0, 1, 2, 3]
    count = draw(st.integers(1, 4))
    shard_of = np.array([*range(count), *(draw(st.integers(0, count - 1)) for _ in range(31 - count))])
    visits = np.array([draw(st.integers(0, 5)) for _ in patients])
    skips = np.array([draw(st.integers(0, int(most))) for most in visits])
    return shard_of[patients], patients, visits, skips


def patients_of(shards: np.ndarray, patients: np.ndarray) -> list[set[int]]:
    """Who is where."""
    return [set(patients[shards == shard].tolist()) for shard in range(int(shards.max()) + 1)]


def moved(before: np.ndarray, after: np.ndarray) -> dict[int, tuple[int, int]]:
    """From which shard each film went to which; where every film is a patient's only one, these are the patients."""
    return {row: (int(before[row]), int(after[row])) for row in np.flatnonzero(after != before).tolist()}


@given(given_round=rounds(), share=st.floats(0, 1))
def test_patients_move_whole_and_every_shard_keeps_their_number(given_round: tuple[np.ndarray, ...], share: float) -> None:
    shards, patients, visits, skips = given_round
    before = shards.copy()
    after = redistribute(shards, patients, visits, skips, share)
    assert np.array_equal(shards, before)
    old, new = patients_of(before, patients), patients_of(after, patients)
    assert [len(held) for held in new] == [len(held) for held in old]
    assert sum(map(len, new)) == len(set(patients.tolist()))  # nobody is in two shards


@given(given_round=rounds())
def test_share_of_nothing_moves_nobody(given_round: tuple[np.ndarray, ...]) -> None:
    shards, patients, visits, skips = given_round
    assert np.array_equal(redistribute(shards, patients, visits, skips, 0.0), shards)


def test_most_skipped_swap_with_the_least_skipped_of_the_next_shard() -> None:
    """Three shards of four patients, one film each; a quarter of each, so one, is swapped in a ring."""
    shards, patients = np.repeat([0, 1, 2], 4), np.arange(12)
    skips = np.array([9, 1, 2, 3, 0, 8, 4, 5, 7, 6, 2, 3])
    after = redistribute(shards, patients, np.full(12, 10), skips, 0.25)
    assert after.tolist() == [1, 2, 0, 0, 0, 2, 1, 1, 0, 2, 1, 2]


def test_rate_is_of_all_films_of_a_patient() -> None:
    """Patient 0 is skipped at 5 of 10 visits, whatever its first film's rate; patient 1 at 6 of 10."""
    shards, patients = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 3])
    visits, skips = np.array([2, 8, 10, 10, 10]), np.array([2, 3, 6, 1, 2])
    assert redistribute(shards, patients, visits, skips, 0.5).tolist() == [0, 0, 1, 0, 1]


def test_nobody_swaps_with_one_that_is_skipped_as_often() -> None:
    shards, patients = np.repeat([0, 1], 5), np.arange(10)
    for skips in (np.full(10, 2), np.zeros(10, dtype=np.int64)):
        assert moved(shards, redistribute(shards, patients, np.full(10, 4), skips, 0.4)) == {}


def test_patients_that_were_not_visited_stay() -> None:
    shards, patients = np.repeat([0, 1], 4), np.arange(8)
    visits = np.array([0, 5, 5, 5, 0, 5, 5, 5])
    after = redistribute(shards, patients, visits, np.array([0, 5, 1, 2, 0, 1, 2, 0]), 0.25)
    assert moved(shards, after) == {1: (0, 1), 7: (1, 0), 6: (1, 0), 2: (0, 1)}


@pytest.mark.parametrize(("share", "expected"), [(0.05, 1), (0.1, 1), (0.15, 2), (0.5, 5), (1.0, 5)])
def test_share_is_rounded_up_and_half_a_shard_at_most(share: float, expected: int) -> None:
    shards, patients = np.repeat([0, 1], [10, 200]), np.arange(210)
    skips = np.concatenate([np.arange(90, 100), np.zeros(200, dtype=np.int64)])
    after = redistribute(shards, patients, np.full(210, 100), skips, share)
    assert [row for row, way in moved(shards, after).items() if way == (0, 1)] == list(range(10 - expected, 10))


def test_one_shard_has_nobody_to_swap_with() -> None:
    shards = np.zeros(4, dtype=np.int64)
    assert moved(shards, redistribute(shards, np.arange(4), np.full(4, 9), np.arange(4), 0.5)) == {}
