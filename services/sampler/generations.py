"""Drawing what a request asks for, and keeping it where that was asked too."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

from pydantic import JsonValue

from shared.auditing import mark_prompts
from shared.catalog import Catalog, GenerationManifest
from shared.diffusion.generation import count_generation
from shared.diffusion.guidance import PlainGuidance
from shared.diffusion.noise import image_seed
from shared.diffusion.prompt_windows import PromptWindows
from shared.diffusion.schedulers import SchedulerName
from shared.diffusion.studio import Image, Manner, Picture, Studio
from shared.errors import NotFoundError
from shared.imaging.png import encode_png
from shared.settings import Settings
from shared.storage.durable import named_full_disk
from shared.telemetry import lethe_version

NO_MITIGATION: Final = "none"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to draw."""

    model: str
    prompts: Sequence[str]
    images_per_prompt: int
    steps: int
    guidance_scale: float
    scheduler: SchedulerName
    seed: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One image as PNG."""

    prompt_index: int
    seed: int
    png: bytes
    sha256: str


async def draw(order: Order, studio: Studio, windows: PromptWindows) -> list[Drawn]:
    """All images, by prompt and then by seed; a prompt that is too long is refused before any is drawn."""
    started = time.monotonic()
    await asyncio.to_thread(windows.require_fit, order.model, order.prompts)
    manner = Manner(order.model, order.steps, order.scheduler, PlainGuidance(order.guidance_scale))
    seeds = [image_seed(order.seed, index) for index in range(order.images_per_prompt)]
    images = await studio.draw(manner, [Picture(prompt, seed) for prompt in order.prompts for seed in seeds])
    drawn = await asyncio.to_thread(_encoded, order, seeds, images)
    count_generation(images=len(drawn), seconds=time.monotonic() - started, mitigation=NO_MITIGATION)
    return drawn


def _encoded(order: Order, seeds: Sequence[int], images: Image) -> list[Drawn]:
    """The images as PNG."""
    drawn = []
    for number, image in enumerate(images):
        png = encode_png(image)
        prompt_index, index = divmod(number, order.images_per_prompt)
        drawn.append(Drawn(prompt_index=prompt_index, seed=seeds[index], png=png, sha256=hashlib.sha256(png).hexdigest()))
    return drawn


def store(generation_id: str, order: Order, drawn: Sequence[Drawn], catalog: Catalog, settings: Settings) -> GenerationManifest:
    """Commit the images with all that is needed to draw each again, except the prompts' words."""
    model = catalog.get("model", order.model)
    scratch = settings.home.resolve() / "generations"
    scratch.mkdir(parents=True, exist_ok=True)
    marks = cast("list[JsonValue]", mark_prompts(order.prompts, settings))
    with named_full_disk(), tempfile.TemporaryDirectory(dir=scratch) as folder:
        for number, image in enumerate(drawn):
            (Path(folder) / image_path(number)).write_bytes(image.png)
        manifest = GenerationManifest(
            id=generation_id,
            name="",
            model=order.model,
            request={
                "prompt_marks": marks,
                "images_per_prompt": order.images_per_prompt,
                "steps": order.steps,
                "guidance_scale": order.guidance_scale,
                "scheduler": order.scheduler,
                "seed": order.seed,
            },
            images=[
                {"prompt_index": image.prompt_index, "seed": image.seed, "path": image_path(number), "sha256": image.sha256}
                for number, image in enumerate(drawn)
            ],
            lineage={
                "model": order.model,
                "model_digest": model.digest,
                "code_version": lethe_version(),
                "libraries": {name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
        )
        return catalog.commit(manifest, Path(folder))


def stored_image(catalog: Catalog, generation_id: str, number: int) -> tuple[bytes, str]:
    """A stored image, verified, and its digest."""
    manifest = catalog.get("generation", generation_id)
    if not 0 <= number < len(manifest.images):
        raise NotFoundError(f"The generation {manifest.id} has no image {number}; it has {len(manifest.images)}.")
    return catalog.read_file(manifest, image_path(number)), str(manifest.images[number]["sha256"])


def image_path(number: int) -> str:
    """Where an image lies below its generation."""
    return f"{number:05}.png"
