"""What an import is told; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from pydantic import Field

from services.trainer.dataset_spec import FOLDER_PATTERN
from shared.http.bodies import StrictSpec


class ImportSpec(StrictSpec):
    """Which diffusers folder becomes a model of the catalog."""

    name: str = Field(min_length=1, max_length=200)
    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="file:// folder within the import roots, in the layout of Stable Diffusion 1.x or 2.x, safetensors only.",
        json_schema_extra=FOLDER_PATTERN,
    )
