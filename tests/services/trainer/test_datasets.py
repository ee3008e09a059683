"""Data sets as callers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.trainer.datasets import committed_dataset, dataset_without_job, describe_dataset, manifest_fields
from shared.errors import ConflictError, NotFoundError
from shared.jobs.records import JobStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


@pytest.fixture
def jobs(stocked_home: StockedHome) -> Iterator[JobStore]:
    store = JobStore.open(stocked_home.settings)
    yield store
    store.close()


def test_committed_data_set_is_found_without_a_job(stocked_home: StockedHome, stocked_catalog: Catalog, jobs: JobStore) -> None:
    assert committed_dataset(stocked_catalog, jobs, stocked_home.dataset.id) == stocked_home.dataset


def test_queued_and_running_data_sets_are_conflicts_and_cancelled_ones_unknown(stocked_catalog: Catalog, jobs: JobStore) -> None:
    jobs.create(job_id="ds_1", kind="dataset", spec={})
    with pytest.raises(ConflictError, match="ds_1 is still being registered"):
        committed_dataset(stocked_catalog, jobs, "ds_1")
    jobs.claim(kinds=["dataset"], owner="test")
    with pytest.raises(ConflictError, match="ds_1 is still being registered"):
        committed_dataset(stocked_catalog, jobs, "ds_1")
    jobs.cancelled(job_id="ds_1", attempt=1)
    with pytest.raises(NotFoundError, match="ds_1"):
        committed_dataset(stocked_catalog, jobs, "ds_1")


def test_registration_tells_its_name_first_and_its_manifest_at_last(
    stocked_home: StockedHome, stocked_catalog: Catalog, jobs: JobStore
) -> None:
    dataset = stocked_home.dataset
    queued = jobs.create(job_id=dataset.id, kind="dataset", spec={"name": "ward-a"})
    assert describe_dataset(stocked_catalog, queued) == {"name": "ward-a"}
    jobs.claim(kinds=["dataset"], owner="test")
    jobs.succeed(job_id=dataset.id, attempt=1, result={"dataset": dataset.id})
    assert describe_dataset(stocked_catalog, jobs.get(dataset.id)) == manifest_fields(dataset)


def test_splits_are_told_in_films_and_patients(stocked_home: StockedHome) -> None:
    dataset = stocked_home.dataset
    splits = manifest_fields(dataset)["splits"]
    assert list(splits) == ["train", "canary", "control"]
    assert splits["canary"] == {"films": 2, "patients": 2}
    assert {split: told["films"] for split, told in splits.items()} == dataset.counts


def test_data_set_without_job_looks_like_a_finished_operation(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    told = dataset_without_job(stocked_catalog, stocked_home.dataset.id)
    assert (told["state"], told["kind"], told["result"], told["error"]) == (
        "succeeded",
        "dataset",
        {"dataset": stocked_home.dataset.id},
        None,
    )
    assert told["progress"]["step"] == told["progress"]["total"] == sum(stocked_home.dataset.counts.values())
