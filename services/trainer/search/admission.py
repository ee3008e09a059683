"""What a search must have before it is queued: rewards that exist, a data set to measure on, a base that fits, and room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from services.trainer.datasets import committed_dataset
from services.trainer.search.search_spec import QualityWithin, SearchSpec
from services.trainer.search.space import Space
from services.trainer.training_inputs import modules_of
from shared.catalog import Catalog, DatasetManifest, ModelManifest
from shared.errors import InvalidRequestError
from shared.jobs.records import JobStore
from shared.memorization.rewards.names import MEMORIZATION, QUALITY, known_rewards
from shared.settings import Settings

FILM_CHANNELS: Final = 1
TAKES_FILMS: Final = (FILM_CHANNELS, 3)  # an autoencoder of colours gets a film three times
LEAST_CONTROL_PATIENTS: Final = 2  # one whom thresholds are set on, one whom they are measured on


def admit_search(spec: SearchSpec, *, catalog: Catalog, jobs: JobStore, settings: Settings) -> None:
    """Refuse a search that could not end well, naming the field; what only the films or the weights show, the job refuses."""
    _require_rewards(spec)
    if spec.parallel > settings.job_slots and not settings.ray_address:  # a cluster's nodes come and go: trials wait for them
        raise InvalidRequestError(
            f"{spec.parallel} trials at once need as many slots, and there are {settings.job_slots} (LETHE_JOB_SLOTS).", field="parallel"
        )
    dataset = committed_dataset(catalog, jobs, spec.training.dataset)
    base = catalog.get("model", spec.training.base)
    with of_training():
        _require_measurable(dataset)
        require_fitting_films(base, dataset, catalog)
    modules = modules_of(base, catalog)
    if modules is not None:
        Space.of(spec, modules)


def require_fitting_films(base: ModelManifest, dataset: DatasetManifest, catalog: Catalog) -> None:
    """Refuse films of another size than the base draws, and bases that take pictures of another number of channels."""
    unet, vae = (_config(base, part, catalog) for part in ("unet", "vae"))
    channels, latents, noised = vae.get("in_channels", 3), vae.get("latent_channels", 4), unet.get("in_channels", 4)  # diffusers' defaults
    if channels not in TAKES_FILMS:
        raise InvalidRequestError(
            f"The base takes pictures of {channels} channels, and films have {FILM_CHANNELS}; take a base of 1 or 3.", field="base"
        )
    if latents != noised:
        raise InvalidRequestError(
            f"The base's denoiser takes {noised} channels, and its autoencoder makes {latents} of a film; take a base that is told of "
            "nothing else.",
            field="base",
        )
    drawn = _image_size(unet, vae)
    if drawn is not None and drawn != dataset.image_size:
        raise InvalidRequestError(
            f"The base draws images of {drawn} pixels, the data set has films of {dataset.image_size}; register it in that size.",
            field="base",
        )


@contextmanager
def of_training() -> Iterator[None]:
    """Name the fields of a training where a search's body has it."""
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), field=None if error.field is None else f"training.{error.field}") from error


def _require_rewards(spec: SearchSpec) -> None:
    """Names that exist, of plug-ins too; and for a rule that holds one aspect against the other, both."""
    known = known_rewards()
    for field, names in (("objectives", spec.objectives), ("constraints", [constraint.reward for constraint in spec.constraints])):
        for name in names:
            if name not in known:
                raise InvalidRequestError(f"There is no reward {name}; there are {', '.join(known)}.", field=field)
    if isinstance(spec.recommend, QualityWithin):
        for aspect, others in (("quality", MEMORIZATION), ("memorization", QUALITY)):
            if all(name in others for name in spec.objectives):
                raise InvalidRequestError(f"quality_within needs an objective of {aspect} too; add one, or take knee.", field="recommend")


def _require_measurable(dataset: DatasetManifest) -> None:
    """Memorization is measured on canaries, against control films."""
    if not dataset.counts.get("canary"):
        raise InvalidRequestError(
            f"The data set {dataset.id} has no canaries, on which memorization is measured; register it with some.",
            field="dataset",
        )
    if dataset.patients.get("control", 0) < LEAST_CONTROL_PATIENTS:
        raise InvalidRequestError(
            f"The data set {dataset.id} has films of {dataset.patients.get('control', 0)} control patients, against which trials are "
            f"measured; register it with {LEAST_CONTROL_PATIENTS} or more (control_fraction).",
            field="dataset",
        )


def _config(base: ModelManifest, part: str, catalog: Catalog) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(catalog.read_file(base, f"{part}/config.json"))
    return config


def _image_size(unet: dict[str, Any], vae: dict[str, Any]) -> int | None:
    side, blocks = unet.get("sample_size"), vae.get("block_out_channels")
    return side * 2 ** (len(blocks) - 1) if isinstance(side, int) and isinstance(blocks, list) else None
