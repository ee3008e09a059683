"""The detector's child process: `python -m services.detector.worker JOB_ID` builds one gallery or makes one calibration."""

from __future__ import annotations

import sys
from typing import Any, Final

import torch

from services.detector.calibration import CalibrationSpec, calibrate
from services.detector.records import calibration_result, gallery_result
from services.detector.schemas import CalibrationRequest, GalleryRequest
from shared.catalog import open_catalog
from shared.jobs.context import JobContext
from shared.jobs.worker import Handlers, run_worker
from shared.memorization.galleries import build_gallery
from shared.memorization.prompt_scoring import ScreeningSettings


def run_gallery(context: JobContext) -> dict[str, Any]:
    """Build the gallery whose id the job has."""
    request = GalleryRequest.model_validate(context.spec)
    _limit_threads(context)
    with open_catalog(context.settings) as catalog:
        dataset = catalog.get("dataset", request.dataset)
        manifest = build_gallery(dataset, context.id, request.seed, catalog=catalog, settings=context.settings, report=context.advance)
    return gallery_result(manifest)


def run_calibration(context: JobContext) -> dict[str, Any]:
    """Make the calibration whose id the job has."""
    request = CalibrationRequest.model_validate(context.spec)
    _limit_threads(context)
    spec = CalibrationSpec(
        model=request.model,
        dataset=request.dataset,
        false_positive_rate=request.false_positive_rate,
        screening=ScreeningSettings(steps=request.steps, seeds_per_prompt=request.seeds_per_prompt, seed=request.seed),
        signals=request.signals,
    )
    with open_catalog(context.settings) as catalog:
        manifest, warnings = calibrate(spec, context.id, catalog=catalog, settings=context.settings, report=context.advance)
    return calibration_result(manifest, warnings=warnings)


def _limit_threads(context: JobContext) -> None:
    if context.settings.torch_threads:
        torch.set_num_threads(context.settings.torch_threads)


HANDLERS: Final[Handlers] = {"gallery": run_gallery, "calibration": run_calibration}

if __name__ == "__main__":
    sys.exit(run_worker("detector", HANDLERS))
