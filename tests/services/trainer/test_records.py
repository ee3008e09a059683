"""Records of a data set, page by page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.trainer.records import TABLES_HELD, Records
from shared.catalog import DatasetManifest, new_id
from shared.errors import IntegrityError, NotFoundError
from shared.imaging.films import FilmTable

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.imaging.splits import Split
    from tests.fixtures.models import StockedHome


@pytest.fixture
def records(stocked_catalog: Catalog) -> Records:
    return Records(stocked_catalog)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split=st.sampled_from([None, "train", "control", "canary"]), size=st.integers(1, 60))
def test_pages_together_are_all_records_in_order(records: Records, stocked_home: StockedHome, split: Split | None, size: int) -> None:
    dataset = stocked_home.dataset
    found: list[int] = []
    after: int | None = -1
    while after is not None:
        page, after = records.page(dataset, split=split, after=after, size=size)
        assert len(page) == size or after is None
        found += [fact.record for fact in page]
    total = sum(dataset.counts.values()) if split is None else dataset.counts[split]
    assert found == sorted(set(found))
    assert len(found) == total


def test_film_has_its_picture(records: Records, stocked_home: StockedHome) -> None:
    film = records.film(stocked_home.dataset, 0)
    assert film.png.startswith(b"\x89PNG")
    with pytest.raises(NotFoundError, match="records 0 to"):
        records.film(stocked_home.dataset, 10_000)


def test_picture_that_is_not_the_committed_one_is_refused(records: Records, stocked_home: StockedHome) -> None:
    film = records.film(stocked_home.dataset, 0)
    changed = dataclasses.replace(film, png=film.png + b"x")
    with mock.patch.object(FilmTable, "film", return_value=changed), pytest.raises(IntegrityError, match="record 0"):
        records.film(stocked_home.dataset, 0)


def test_few_tables_are_held_and_each_read_once(records: Records, stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    folder = stocked_catalog.fetch(stocked_home.dataset)
    others = [
        DatasetManifest.model_validate(stocked_home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": ""})
        for _ in range(TABLES_HELD)
    ]
    committed = [stocked_home.dataset, *(stocked_catalog.commit(other, folder) for other in others)]
    with mock.patch.object(stocked_catalog, "fetch", wraps=stocked_catalog.fetch) as fetch:
        for dataset in (committed[0], committed[0], committed[1], committed[0], committed[2], committed[0], committed[1]):
            records.film(dataset, 0)
    assert [call.args[0].id for call in fetch.call_args_list] == [committed[number].id for number in (0, 1, 2, 1)]
