"""Records of a data set, page by page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from unittest import mock

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.trainer import records as module
from services.trainer.records import Records
from shared.catalog import DatasetManifest, DatasetPart, new_id
from shared.errors import IntegrityError, NotFoundError
from shared.imaging.films import FilmPart, FilmWriter

if TYPE_CHECKING:
    from pathlib import Path

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
    with mock.patch.object(FilmPart, "film", return_value=changed), pytest.raises(IntegrityError, match="record 0"):
        records.film(stocked_home.dataset, 0)


@pytest.fixture
def parted(stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path) -> DatasetManifest:
    """The films of the phantom once more, in parts of ten."""
    folder = tmp_path / "parted"
    folder.mkdir()
    (path,) = stocked_catalog.fetch(stocked_home.dataset).glob("part-*.parquet")
    with FilmWriter(folder, rows_per_part=10) as writer:
        writer.write(pq.read_table(path))
    parts = [DatasetPart(path=part.name, rows=part.rows, splits=part.splits) for part in writer.parts]
    fields = stocked_home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": "", "parts": parts}
    return stocked_catalog.commit(DatasetManifest.model_validate(fields), folder)


@pytest.mark.parametrize("split", [None, "train", "control", "canary"])
@pytest.mark.parametrize("size", [1, 7, 10, 200])
def test_pages_are_the_same_however_the_films_are_parted(
    records: Records, stocked_home: StockedHome, parted: DatasetManifest, split: Split | None, size: int
) -> None:
    after: int | None = -1
    while after is not None:
        page, following = records.page(parted, split=split, after=after, size=size)
        assert (page, following) == records.page(stocked_home.dataset, split=split, after=after, size=size)
        after = following


def test_page_and_picture_fetch_only_the_parts_that_they_lie_in(parted: DatasetManifest, stocked_catalog: Catalog) -> None:
    records = Records(stocked_catalog)
    with (
        mock.patch.object(stocked_catalog, "fetch_file", wraps=stocked_catalog.fetch_file) as fetch_file,
        mock.patch.object(stocked_catalog, "fetch", wraps=stocked_catalog.fetch) as fetch,
    ):
        assert [fact.record for fact in records.page(parted, split=None, after=11, size=5)[0]] == [12, 13, 14, 15, 16]
        assert records.film(parted, 27).record == 27
    assert fetch.call_count == 0
    assert [call.args[1] for call in fetch_file.call_args_list] == ["part-00001.parquet", "part-00002.parquet"]


def test_part_without_the_split_is_not_fetched(parted: DatasetManifest, stocked_catalog: Catalog) -> None:
    holding = {part.path for part in parted.parts if part.splits.get("canary")}
    assert len(holding) < len(parted.parts)
    with mock.patch.object(stocked_catalog, "fetch_file", wraps=stocked_catalog.fetch_file) as fetch_file:
        assert len(Records(stocked_catalog).page(parted, split="canary", after=-1, size=200)[0]) == 2
    assert {call.args[1] for call in fetch_file.call_args_list} == holding


def test_few_parts_are_held(records: Records, parted: DatasetManifest, stocked_catalog: Catalog) -> None:
    with (
        mock.patch.object(module, "PARTS_HELD", 2),
        mock.patch.object(stocked_catalog, "fetch_file", wraps=stocked_catalog.fetch_file) as fetch,
    ):
        for record in (0, 1, 10, 0, 20, 0, 10):
            records.film(parted, record)
    assert [call.args[1] for call in fetch.call_args_list] == [f"part-0000{number}.parquet" for number in (0, 1, 2, 1)]


def test_data_set_that_does_not_name_its_parts_is_read_whole(records: Records, stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    fields = stocked_home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": "", "parts": []}
    older = stocked_catalog.commit(DatasetManifest.model_validate(fields), stocked_catalog.fetch(stocked_home.dataset))
    assert records.page(older, split="control", after=-1, size=5) == records.page(stocked_home.dataset, split="control", after=-1, size=5)
    assert records.film(older, 3) == records.film(stocked_home.dataset, 3)
