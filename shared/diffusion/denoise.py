"""The denoising loop: the one place where noise becomes an image, watched by observers and steered by guidance.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shared.diffusion.guidance import Guidance
from shared.diffusion.model import Conditioning, Model
from shared.diffusion.schedulers import SchedulerName, make_scheduler


@dataclass
class Step:
    """One visited timestep: where the latents stood, what was predicted, where they went (all B×C×H×W)."""

    index: int
    t: int
    x_t: Tensor
    eps_cond: Tensor
    halves: Tensor | None
    x_next: Tensor

    @property
    def eps_uncond(self) -> Tensor:
        """ε_u; asking for it where it was not computed is a defect."""
        if self.halves is None:
            raise RuntimeError("this run did not compute the unconditional prediction")
        return self.halves


class Observer(Protocol):
    """Reads steps and keeps what it needs, one number or map per image."""

    def observe(self, step: Step) -> None:
        """Called once a step, before the latents move."""
        ...


def predict_halves(model: Model, x_BCHW: Tensor, t: int, embeddings_BLE: Tensor) -> tuple[Tensor, Tensor]:
    """(ε_u, ε_c) in one batched forward, unconditional half first; nothing else splits a batch."""
    unconditional = model.unconditional_1LE.expand(len(x_BCHW), -1, -1)
    both = model.predict_noise(torch.cat([x_BCHW, x_BCHW]), t, torch.cat([unconditional, embeddings_BLE]))
    eps_uncond, eps_cond = both.chunk(2)
    return eps_uncond, eps_cond


def denoise(
    model: Model,
    conditioning: Conditioning,
    noise_BCHW: Tensor,
    *,
    steps: int,
    guidance: Guidance,
    scheduler: SchedulerName = "ddim",
    observers: Sequence[Observer] = (),
    first_eps_uncond: Tensor | None = None,
) -> Iterator[Step]:
    """Walk from noise towards x_0, one `Step` at a time; stop early by not asking for more.

    The last step's `x_next` is x_0. With observers the unconditional prediction is computed at every step, because every
    signal is measured against the empty prompt. `first_eps_uncond` is a cached ε_u for step 0 and saves its forward pass.
    Cost: 2 forward passes a step and image, 1 where neither guidance nor observers need ε_u.
    """
    visit = make_scheduler(scheduler, model.scheduler_config, steps)
    x = noise_BCHW.to(model.device) * visit.init_noise_sigma
    paired = guidance.needs_unconditional or bool(observers)
    for index, timestep in enumerate(visit.timesteps):
        with torch.no_grad():
            t = int(timestep)
            x_t = visit.scale_model_input(x, timestep)
            eps_uncond, eps_cond = _predict(model, x_t, t, conditioning, first_eps_uncond if index == 0 else None, paired=paired)
            step = Step(index, t, x_t, eps_cond, eps_uncond, x_t)
            for observer in observers:
                observer.observe(step)
            x = visit.step(guidance(step), timestep, x).prev_sample
            step.x_next = x
        yield step


def _predict(
    model: Model, x_t: Tensor, t: int, conditioning: Conditioning, cached: Tensor | None, *, paired: bool
) -> tuple[Tensor | None, Tensor]:
    if paired and cached is None:
        return predict_halves(model, x_t, t, conditioning.embeddings_BLE)
    return cached, model.predict_noise(x_t, t, conditioning.embeddings_BLE)


def sample(
    model: Model,
    conditioning: Conditioning,
    noise_BCHW: Tensor,
    *,
    steps: int,
    guidance: Guidance,
    scheduler: SchedulerName = "ddim",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Run the loop to its end: x_0 as latents, B×C×H×W. `on_step` is called after each step and may raise to stop."""
    x_0 = noise_BCHW
    for step in denoise(model, conditioning, noise_BCHW, steps=steps, guidance=guidance, scheduler=scheduler):
        x_0 = step.x_next
        on_step()
    return x_0
