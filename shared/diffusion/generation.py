"""Prompts in, grey pictures out: the sampling loop in batches, one seed per image.

P prompts, B batch, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from shared.diffusion.denoise import sample
from shared.diffusion.guidance import Guidance
from shared.diffusion.model import Conditioning, Model
from shared.diffusion.noise import draw_noise, image_seed
from shared.diffusion.out_of_memory import halved_where_needed
from shared.diffusion.schedulers import SchedulerName

BATCH_IMAGES: Final = 32  # beyond this a forward pass gets no faster per image on CPU
BATCH_PIXELS: Final = BATCH_IMAGES * 128 * 128  # decoding large pictures takes memory by the pixel: 2 at a time at 512×512

IMAGES = Counter("lethe_images_generated_total", "Images handed out.", ["mitigation"])
SECONDS = Histogram(
    "lethe_generation_duration_seconds",
    "From a request's admission to its last image.",
    ["mitigation"],
    buckets=(0.5, 1, 2, 5, 10, 20, 60, 120, 300),
)
BATCH_SIZE = Histogram("lethe_sampler_batch_size", "Images drawn at once.", buckets=(1, 2, 4, 8, 16, 32, 64))

BatchObserver = Callable[[int], None]
"""Told after each batch how many images it made. May raise to stop."""


def generate_images(
    model: Model,
    prompts: Sequence[str],
    *,
    images_per_prompt: int,
    seed: int,
    steps: int,
    guidance: Guidance,
    scheduler: SchedulerName = "ddim",
    on_batch: BatchObserver = lambda _count: None,
) -> NDArray[np.uint8]:
    """All images of all prompts, (P·images_per_prompt)×H×W, those of one prompt in a row, image j with seed + j.

    The empty prompt with guidance 1 samples unconditionally.
    """
    conditioning = model.encode(prompts).repeat(images_per_prompt)
    seeds = [image_seed(seed, index) for index in range(images_per_prompt)] * len(prompts)
    return draw_in_batches(model, conditioning, seeds, steps=steps, guidance=guidance, scheduler=scheduler, on_batch=on_batch)


def draw_in_batches(
    model: Model,
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: Guidance,
    scheduler: SchedulerName = "ddim",
    on_batch: BatchObserver = lambda _count: None,
) -> NDArray[np.uint8]:
    """Any number of images, N×H×W: image i from conditioning i and seed i; a batch that the device has no room for is halved once."""

    def draw(numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
        """The images of consecutive numbers."""
        rows = slice(numbers[0], numbers[-1] + 1)
        return list(draw_images(model, conditioning[rows], seeds[rows], steps=steps, guidance=guidance, scheduler=scheduler))

    images: list[NDArray[np.uint8]] = []
    size = batch_size(model)
    for start in range(0, len(seeds), size):
        numbers = range(len(seeds))[start : start + size]
        images += halved_where_needed(draw, numbers)
        on_batch(len(numbers))
    return np.stack(images)


def draw_images(
    model: Model,
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: Guidance,
    scheduler: SchedulerName = "ddim",
    on_step: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """One batch, B×H×W: image i from conditioning i and seed i; `on_step` is called after each step and may raise to stop."""
    BATCH_SIZE.observe(len(seeds))
    noise = draw_noise(seeds, model.latent_shape)
    latents = sample(model, conditioning, noise, steps=steps, guidance=guidance, scheduler=scheduler, on_step=on_step)
    images_BHW = model.to_images(latents).mul(255).round().to(torch.uint8).cpu().numpy()
    return np.asarray(images_BHW, dtype=np.uint8)


def batch_size(model: Model) -> int:
    """How many images of this model are drawn at once."""
    return max(1, min(BATCH_IMAGES, BATCH_PIXELS // model.image_size**2))


def count_generation(*, images: int, seconds: float, mitigation: str) -> None:
    """Account for a request's images under the name of the strategy that made them safe, `none` without one."""
    IMAGES.labels(mitigation=mitigation).inc(images)
    SECONDS.labels(mitigation=mitigation).observe(seconds)
