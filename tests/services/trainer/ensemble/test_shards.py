"""Which shard learns from which film."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.ensemble.shards import deal_shards
from shared.errors import InvalidRequestError

SETS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "Edema", "Pneumonia"])), min_size=1, max_size=60)


def columns(films: list[tuple[int, str]]) -> tuple[np.ndarray, list[str]]:
    """Patients and strata."""
    return np.array([patient for patient, _ in films], dtype=np.int64), [stratum for _, stratum in films]


@given(films=SETS, count=st.integers(1, 5), seed=st.integers(0, 3))
def test_every_film_is_in_one_shard_with_its_patient(films: list[tuple[int, str]], count: int, seed: int) -> None:
    patients, strata = columns(films)
    if count > len(set(patients.tolist())):
        with pytest.raises(InvalidRequestError, match=f"{count} shards need as many patients") as raised:
            deal_shards(patients, strata, count, seed)
        assert raised.value.field == "ensemble.shards"
        return
    shards = deal_shards(patients, strata, count, seed)
    assert shards.shape == patients.shape
    assert sorted(set(shards.tolist())) == list(range(count))  # none is empty, and so the last is not lost
    assert all(len(set(shards[patients == patient].tolist())) == 1 for patient in patients)
    sizes = np.bincount(shards, minlength=count)
    assert sizes.max() - sizes.min() <= np.bincount(patients).max()
    assert np.array_equal(shards, deal_shards(patients, strata, count, seed))


@given(strata=st.lists(st.sampled_from("abcdef"), min_size=5, max_size=80), count=st.integers(1, 5))
def test_patients_of_one_film_make_shards_that_differ_by_one_film_in_all_and_in_each_stratum(strata: list[str], count: int) -> None:
    shards = deal_shards(np.arange(len(strata)), strata, count, seed=0)
    for wanted in (set(strata), *strata):
        held = np.bincount(shards[[stratum in wanted for stratum in strata]], minlength=count)
        assert held.max() - held.min() <= 1


def test_strata_of_patients_with_several_films_are_spread_too() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(400), generator.geometric(0.34, 400))  # 2.9 films each, as CheXpert's
    strata = generator.choice(["a", "b", "c", "d"], len(patients), p=[0.6, 0.3, 0.08, 0.02])
    shards = deal_shards(patients, strata.tolist(), 4, seed=1)
    sizes = np.bincount(shards)
    assert sizes.max() - sizes.min() <= 1
    for stratum in "abcd":
        held = np.bincount(shards[strata == stratum], minlength=4)
        assert held.max() - held.min() <= 2, stratum


def test_seed_decides_who_goes_where() -> None:
    patients, strata = np.arange(40), [""] * 40
    assert not np.array_equal(deal_shards(patients, strata, 4, seed=0), deal_shards(patients, strata, 4, seed=1))


def test_one_shard_holds_everything() -> None:
    assert deal_shards(np.array([3, 3, 9]), ["", "a", ""], 1, seed=0).tolist() == [0, 0, 0]
