"""Data sets as callers see them: what is committed, and what the job records say of the rest."""

from __future__ import annotations

from typing import Any

from shared.catalog import Catalog, DatasetManifest
from shared.errors import ConflictError, NotFoundError
from shared.jobs.records import Job, JobStore


def committed_dataset(catalog: Catalog, jobs: JobStore, dataset_id: str) -> DatasetManifest:
    """The manifest of a data set that is ready; ConflictError while it is being registered, NotFoundError without one."""
    try:
        return catalog.get("dataset", dataset_id)
    except NotFoundError:
        if _state_of(jobs, dataset_id) in {"queued", "running"}:
            raise ConflictError(f"The dataset {dataset_id} is still being registered; wait until it has succeeded.") from None
        raise


def describe_dataset(catalog: Catalog, job: Job) -> dict[str, Any]:
    """What a registration adds to its envelope: its name, and the manifest once it succeeded."""
    if job.state != "succeeded":
        return {"name": job.spec.get("name")}
    return manifest_fields(catalog.get("dataset", job.id))


def manifest_fields(manifest: DatasetManifest) -> dict[str, Any]:
    """The manifest as JSON, with films and patients by split."""
    splits = {
        split: {"films": manifest.counts[split], "patients": manifest.patients.get(split, 0)}
        for split in ("train", "canary", "control")
        if split in manifest.counts
    }
    return manifest.model_dump(mode="json") | {"splits": splits}


def dataset_without_job(catalog: Catalog, dataset_id: str) -> dict[str, Any]:
    """A committed data set in the envelope of a finished operation, for installations whose job records were lost."""
    fields = manifest_fields(catalog.get("dataset", dataset_id))
    films = sum(fields["counts"].values())
    progress = {"step": films, "total": films, "message": "storing the data set", "values": {}}
    return fields | {
        "state": "succeeded",
        "progress": progress,
        "updated": fields["created"],
        "result": {"dataset": dataset_id},
        "error": None,
    }


def _state_of(jobs: JobStore, job_id: str) -> str | None:
    try:
        return jobs.get(job_id).state
    except NotFoundError:
        return None
