"""What a training job is told of deduplication; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from pydantic import Field

from shared.http.bodies import StrictSpec


class Deduplication(StrictSpec):
    """Of films that show the same picture one of each patient is learnt from, and every film is shown once an epoch."""

    films_per_patient: int | None = Field(
        default=5, ge=1, le=1000, description="Films of a patient that are learnt from at most, the first ones; null takes all."
    )
