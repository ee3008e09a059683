"""What the sampler's routes work with."""

from __future__ import annotations

from dataclasses import dataclass

from shared.catalog import Catalog
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.studio import Studio
from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SamplerState:
    """Made by the lifespan, closed with it."""

    settings: Settings
    catalog: Catalog
    windows: PromptWindows
    studio: Studio
