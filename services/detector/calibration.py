"""Calibrations: what a model's score is for prompts that it cannot have memorized, and the threshold that follows.

A calibration holds for one model, one number of steps, and one set of noises: all prompts share their starting noises, so another
seed shifts every score together and with it the share of control prompts above a threshold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from shared.catalog import CalibrationManifest, Catalog, DatasetManifest, ModelManifest
from shared.catalog.digests import content_digest
from shared.catalog.scratch import scratch_folder
from shared.diffusion.device import available_device
from shared.diffusion.model import Model
from shared.errors import ConflictError, InvalidRequestError, NotFoundError
from shared.imaging.films import FilmTable
from shared.memorization.galleries import BUILDING_STEPS, build_gallery, gallery_of
from shared.memorization.magnitude import SCREENING_GUIDANCE, TRAJECTORY_STEPS
from shared.memorization.prompt_scoring import ScreeningSettings, score_prompts
from shared.memorization.statistics import upper_threshold
from shared.settings import Settings

Signal = Literal["noise_magnitude"]
Report = Callable[[int, int, str], None]
"""Told how far the work is: step, of how many, doing what. May raise to stop."""

SCORES_FILE: Final = "control_scores.json"


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """What to calibrate."""

    model: str
    dataset: str
    false_positive_rate: float
    screening: ScreeningSettings
    signals: list[Signal]


@dataclass(frozen=True)
class Calibration:
    """A calibration in force: its manifest and the sorted scores of the control prompts."""

    manifest: CalibrationManifest
    control_scores: list[float]


def alias_of(model_id: str, settings: ScreeningSettings) -> str:
    """The alias under which the newest calibration for a model and these settings is found."""
    return f"{model_id.replace('_', '-')}-t{settings.steps}-n{settings.seeds_per_prompt}-s{settings.seed}"


def calibration_key(model: Model, settings: ScreeningSettings, signals: Sequence[str]) -> str:
    """The digest of all that a score depends on; a threshold holds for one key only."""
    parameter = next(model.unet.parameters())
    facts: dict[str, Any] = {
        "weights": model.key,
        "scheduler": {name: repr(value) for name, value in model.scheduler_config.items()},
        "prediction_type": model.prediction_type,
        "latent_shape": list(model.latent_shape),
        "token_limit": model.token_limit,
        "dtype": str(parameter.dtype),
        "trajectory_steps": TRAJECTORY_STEPS,
        "guidance": SCREENING_GUIDANCE,
        "steps": settings.steps,
        "seeds": settings.seeds,
        "signals": sorted(signals),
    }
    return content_digest(facts)


def calibrate(
    spec: CalibrationSpec, calibration_id: str, *, catalog: Catalog, settings: Settings, report: Report
) -> tuple[CalibrationManifest, list[str]]:
    """Build the gallery where there is none, score the control prompts, commit the threshold and put it in force.

    Answers the manifest and what a reader of its figures should know. A second run under the same id, after a restart, answers
    what the first one committed.
    """
    model, dataset = catalog.get("model", spec.model), catalog.get("dataset", spec.dataset)
    try:
        manifest = catalog.get("calibration", calibration_id)
    except NotFoundError:
        manifest = _calibrate_anew(spec, calibration_id, model, dataset, catalog, settings, report)
    catalog.set_alias("calibration", alias_of(spec.model, spec.screening), manifest.id)
    return manifest, _warnings(manifest, model)


def _calibrate_anew(
    spec: CalibrationSpec,
    calibration_id: str,
    model_manifest: ModelManifest,
    dataset: DatasetManifest,
    catalog: Catalog,
    settings: Settings,
    report: Report,
) -> CalibrationManifest:
    records, prompts = _control_prompts(dataset, catalog)
    distinct = sorted(set(prompts))
    building = 0
    if gallery_of(catalog, dataset.id) is None:
        building = BUILDING_STEPS
        total = building + len(distinct)
        gallery_id = calibration_id.replace("cal_", "gal_", 1)
        build_gallery(
            dataset,
            gallery_id,
            spec.screening.seed,
            catalog=catalog,
            settings=settings,
            report=lambda step, _total, message: report(step, total, message),
        )
    report(building, building + len(distinct), "loading the model")
    model = Model.load(catalog.fetch(model_manifest), key=model_manifest.digest, device=available_device())
    _require_short(model, prompts, records)

    def on_batch(done: int) -> None:
        report(building + done, building + len(distinct), "scoring control prompts")

    score_of = dict(zip(distinct, score_prompts(model, distinct, spec.screening, on_batch), strict=True))
    scores = sorted(score_of[prompt] for prompt in prompts)
    manifest = CalibrationManifest(
        id=calibration_id,
        name=model_manifest.name,
        model=model_manifest.id,
        dataset=dataset.id,
        key=calibration_key(model, spec.screening, spec.signals),
        false_positive_rate=spec.false_positive_rate,
        threshold=upper_threshold(scores, spec.false_positive_rate),
        control_median=float(np.median(scores)),
        steps=spec.screening.steps,
        seeds_per_prompt=spec.screening.seeds_per_prompt,
        signals=list(spec.signals),
        n_control=len(scores),
        lineage={
            "model": model_manifest.id,
            "model_digest": model_manifest.digest,
            "dataset": dataset.id,
            "dataset_digest": dataset.digest,
            "seed": spec.screening.seed,
        },
    )
    with scratch_folder(settings, calibration_id) as folder:
        (folder / SCORES_FILE).write_text(json.dumps({"scores": scores}), encoding="utf-8")
        return catalog.commit(manifest, folder)


def _control_prompts(dataset: DatasetManifest, catalog: Catalog) -> tuple[list[int], list[str]]:
    """The control films that thresholds are set on, and their prompts; the evaluation fold stays unseen."""
    table = FilmTable(catalog.fetch(dataset))
    records = table.select("control", fold="calibration")
    if not records:
        raise ConflictError(f"The data set {dataset.id} has no control films to calibrate on; register it with a control_fraction above 0.")
    return records, table.column("prompt", records)


def _require_short(model: Model, prompts: Sequence[str], records: Sequence[int]) -> None:
    """Name the film whose prompt the text encoder cannot read."""
    for record, prompt in zip(records, prompts, strict=True):
        try:
            model.tokenize([prompt])
        except InvalidRequestError as error:
            message = f"The prompt of control record {record} is longer than the {model.token_limit} tokens that the text encoder reads."
            raise InvalidRequestError(message, field="dataset") from error


def _warnings(manifest: CalibrationManifest, model: ModelManifest) -> list[str]:
    warnings = []
    if model.dataset != manifest.dataset:
        warnings.append("The model was not trained on this data set; its control films may be unlike what the model was trained beside.")
    if manifest.false_positive_rate * (manifest.n_control + 1) < 1:
        warnings.append(
            f"{manifest.n_control} control prompts are too few for a false-positive rate of {manifest.false_positive_rate:g}; the "
            f"threshold is their largest score, and the rate may be as high as {1 / (manifest.n_control + 1):.2g}."
        )
    return warnings


class Calibrations:
    """The calibrations in force, read from the catalog; what never changes is kept in memory."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, Calibration] = {}

    def in_force(self, model_id: str, settings: ScreeningSettings) -> Calibration:
        """The newest calibration for a model and these settings; ConflictError says how to make one."""
        try:
            identifier = self._catalog.get_alias("calibration", alias_of(model_id, settings))
        except NotFoundError:
            self._catalog.get("model", model_id)
            raise ConflictError(
                f"The model {model_id} has no calibration for steps {settings.steps}, seeds_per_prompt {settings.seeds_per_prompt} and "
                f"seed {settings.seed}; POST /v1/calibrations with these makes one."
            ) from None
        if identifier not in self._known:
            manifest = self._catalog.get("calibration", identifier)
            scores = json.loads(self._catalog.read_file(manifest, SCORES_FILE))["scores"]
            self._known[identifier] = Calibration(manifest, scores)
        return self._known[identifier]
