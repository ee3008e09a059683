"""Galleries and calibrations as callers see them: an operation while they are made, the manifest's fields once they are there."""

from __future__ import annotations

from typing import Any

from shared.catalog import CalibrationManifest, Catalog, GalleryManifest
from shared.jobs.records import Job


def describe_gallery(catalog: Catalog, job: Job) -> dict[str, Any]:
    """What a gallery adds to its envelope."""
    if job.state != "succeeded":
        return dict(job.spec)
    return catalog.get("gallery", job.id).model_dump(mode="json")


def describe_calibration(catalog: Catalog, job: Job) -> dict[str, Any]:
    """What a calibration adds to its envelope."""
    if job.state != "succeeded":
        return dict(job.spec)
    return catalog.get("calibration", job.id).model_dump(mode="json")


def gallery_without_job(catalog: Catalog, gallery_id: str) -> dict[str, Any]:
    """A committed gallery that no job of its own made: calibrations build them too."""
    manifest = catalog.get("gallery", gallery_id)
    return _finished(manifest, gallery_result(manifest))


def calibration_without_job(catalog: Catalog, calibration_id: str) -> dict[str, Any]:
    """A committed calibration whose job record is gone."""
    manifest = catalog.get("calibration", calibration_id)
    return _finished(manifest, calibration_result(manifest, warnings=[]))


def gallery_result(manifest: GalleryManifest) -> dict[str, Any]:
    """What the job of a gallery answers."""
    return {"gallery": manifest.id, "thresholds": manifest.thresholds, "metrics": manifest.metrics}


def calibration_result(manifest: CalibrationManifest, *, warnings: list[str]) -> dict[str, Any]:
    """What the job of a calibration answers."""
    return {
        "calibration": manifest.id,
        "threshold": manifest.threshold,
        "control_median": manifest.control_median,
        "false_positive_rate": manifest.false_positive_rate,
        "n_control": manifest.n_control,
        "steps": manifest.steps,
        "seeds_per_prompt": manifest.seeds_per_prompt,
        "seed": manifest.lineage.get("seed"),
        "warnings": warnings,
    }


def _finished(manifest: GalleryManifest | CalibrationManifest, result: dict[str, Any]) -> dict[str, Any]:
    """The manifest in the envelope of an operation that succeeded."""
    fields = manifest.model_dump(mode="json")
    return fields | {
        "state": "succeeded",
        "progress": {"step": 1, "total": 1, "message": "", "values": {}},
        "updated": fields["created"],
        "result": result,
        "error": None,
    }
