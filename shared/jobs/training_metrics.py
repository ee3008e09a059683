"""What running trainings report, as metrics: children hold no registry, they tell their record, and the service tells Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from prometheus_client import Gauge, Histogram

TRAINING_STEP = Histogram(
    "lethe_training_step_seconds",
    "Seconds of a training step, as last reported.",
    ["slot"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TRAINING_LOSS = Gauge("lethe_training_loss", "Training loss at the last reported step.", ["slot"])
IMAGES_PER_SECOND = Gauge("lethe_training_images_per_second", "Films that a training learns from in a second, as last reported.", ["slot"])
CHECKPOINT_WRITTEN = Gauge(
    "lethe_checkpoint_last_success_timestamp_seconds", "When the running training's newest checkpoint reached the store.", ["slot"]
)
CHECKPOINT_UPLOAD = Histogram(
    "lethe_checkpoint_upload_seconds",
    "From the copy of a training's state to its checkpoint in the store.",
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


def observe_training(slot: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Account for what a job reported since the last look; jobs that do not train report none of it."""
    label = str(slot)
    if (step_seconds := _number(now, "step_seconds")) is not None:
        TRAINING_STEP.labels(slot=label).observe(step_seconds)
    if (loss := _number(now, "loss")) is not None:
        TRAINING_LOSS.labels(slot=label).set(loss)
    if (images := _number(now, "images_per_second")) is not None:
        IMAGES_PER_SECOND.labels(slot=label).set(images)
    kept = _number(now, "checkpoint_step")
    if kept is None:
        _forget(CHECKPOINT_WRITTEN, label)  # what does not tell of checkpoints has none that could grow old
    elif kept != _number(before, "checkpoint_step"):
        CHECKPOINT_WRITTEN.labels(slot=label).set(time.time() - (_number(now, "checkpoint_age_seconds") or 0.0))
        CHECKPOINT_UPLOAD.observe(_number(now, "checkpoint_upload_seconds") or 0.0)


def forget_training(slot: int) -> None:
    """A slot whose job ended has no loss, no speed, and no checkpoint that could grow old."""
    for gauge in (TRAINING_LOSS, IMAGES_PER_SECOND, CHECKPOINT_WRITTEN):
        _forget(gauge, str(slot))


def _forget(gauge: Gauge, label: str) -> None:
    """Show a slot no more."""
    with suppress(KeyError):  # which was not shown
        gauge.remove(label)


def _number(reported: Mapping[str, Any], name: str) -> float | None:
    value = reported.get(name)
    return value if isinstance(value, int | float) else None
