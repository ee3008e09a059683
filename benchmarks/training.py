"""A training step beside a bare loop, with caches and without, and beside the loop that diffusers' users write with accelerate.

All lanes take one step each in turn, in an order that turns too, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.material import phantom_films, random_model
from benchmarks.results import keep, shown, spread, tell
from services.trainer.denoising_loss import EMA_DECAY, DenoisingLoss, Recipe, all_parameters, denoiser_parameters
from services.trainer.training_progress import Progress
from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run

BATCH: Final = 16
RATE: Final = 1e-3
DROPOUT: Final = 0.1
UNCOUNTED: Final = 3  # steps in which optimisers set up their state and the allocator finds its sizes
TARGET: Final = 1.05
LANES: Final = {
    "bare": "bare loop, text encoder learns",
    "lethe": "Lethe, text encoder learns",
    "bare frozen": "bare loop, embeddings given",
    "lethe frozen": "Lethe, text encoder frozen, both caches",
    "lethe uncached": "Lethe, text encoder frozen, no cache",
    "accelerate": "diffusers and accelerate, text encoder frozen",
}

Step = Callable[[], None]


@dataclass
class Lane:
    """A loop that takes one step when told, and what its steps took."""

    step: Step
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self) -> None:
        """One step, timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.step()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


class Quiet:
    """The job of a training that nobody watches."""

    def report(self, *_facts: object, **_values: object) -> None:
        """Nothing is written."""


def main() -> None:
    """Measure by turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of each lane; the first three are not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    films = phantom_films(60, options.seed).training_set()
    lanes = run_by_turns(lanes_of(random_model(films.prompts, options.seed), films, options.steps, options.seed), options.steps)
    found = {name: {"seconds": spread(lane.wall), "cpu_seconds": spread(lane.cpu)} for name, lane in lanes.items()}
    compared = ratios(lanes)
    settings = {"batch": BATCH, "steps": options.steps}
    path = keep("training", seed=options.seed, settings=settings, figures={"lanes": found, "ratios": compared})
    rows = [
        [LANES[name], shown(lane["seconds"], 1000, 1), shown(lane["cpu_seconds"], 1000, 1), f"{BATCH / lane['seconds']['median']:.0f}"]
        for name, lane in found.items()
    ]
    tell(f"A training step of {BATCH} films", ["lane", "step ms", "CPU ms", "films/s"], rows, path)
    targets = {"overhead": f"{TARGET}", "overhead_frozen": f"{TARGET}"}
    table = [[name, f"{ratio['wall']:.3f}", f"{ratio['cpu']:.3f}", targets.get(name, "-")] for name, ratio in compared.items()]
    tell("Ratios of medians", ["ratio", "wall", "CPU", "target"], table, path)


def lanes_of(model: Model, films: TrainingSet, steps: int, seed: int) -> dict[str, Lane]:
    """Every lane on a copy of the same model."""
    made = {
        "bare": bare_loop(copy.deepcopy(model), seed, text_learns=True),
        "lethe": lethe_loop(copy.deepcopy(model), films, _recipe(steps, seed)),
        "bare frozen": bare_loop(copy.deepcopy(model), seed, text_learns=False),
        "lethe frozen": lethe_loop(copy.deepcopy(model), films, _recipe(steps, seed, text_encoder="frozen")),
        "lethe uncached": lethe_loop(
            copy.deepcopy(model), films, _recipe(steps, seed, text_encoder="frozen", cache_latents=False, cache_embeddings=False)
        ),
        "accelerate": accelerate_loop(copy.deepcopy(model), films, steps, seed),
    }
    return {name: Lane(made[name]) for name in LANES}


def run_by_turns(lanes: dict[str, Lane], steps: int) -> dict[str, Lane]:
    """One step of each lane after another, each time beginning with another one; without the first steps."""
    names = list(lanes)
    for turn in range(steps):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            lanes[name].take()
    for lane in lanes.values():
        lane.wall, lane.cpu = lane.wall[UNCOUNTED:], lane.cpu[UNCOUNTED:]
    return lanes


def ratios(lanes: Mapping[str, Lane]) -> dict[str, dict[str, float]]:
    """How many times longer the first takes than the second, by medians: 1 is as long."""
    pairs = {
        "overhead": ("lethe", "bare"),
        "overhead_frozen": ("lethe frozen", "bare frozen"),
        "caches": ("lethe uncached", "lethe frozen"),
        "accelerate": ("accelerate", "lethe frozen"),
    }
    return {
        name: {
            "wall": float(np.median(lanes[one].wall) / np.median(lanes[other].wall)),
            "cpu": float(np.median(lanes[one].cpu) / np.median(lanes[other].cpu)),
        }
        for name, (one, other) in pairs.items()
    }


def lethe_loop(model: Model, films: TrainingSet, recipe: Recipe) -> Step:
    """The trainer's own step: hooks, noising, clipping, rate, average, and what is told of it."""
    loss = DenoisingLoss(model, films, recipe)
    run = Run(recipe.modules(model), loss, recipe.optimisation)
    run.modules.train()
    quiet: Any = Quiet()
    progress = Progress(quiet, total=recipe.steps)
    progress.begin_phase("denoiser", recipe.batch_size)

    def step() -> None:
        value = run.advance()
        if value is not None:
            progress(run.step, recipe.steps, "denoiser", value)

    return step


def bare_loop(model: Model, seed: int, *, text_learns: bool) -> Step:
    """Forward, backward, clipping and AdamW on a batch that is already there."""
    modules = all_parameters(model) if text_learns else denoiser_parameters(model)
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, *model.latent_shape, generator=generator)
    target = torch.randn(x.shape, generator=generator)
    t = torch.randint(0, 1000, (BATCH,), generator=generator)
    tokens = model.tokenize(["left pleural effusion"] * BATCH)
    given = model.encode(["left pleural effusion"] * BATCH).embeddings_BLE
    for module in modules:
        module.train()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        embeddings: Tensor = model.text_encoder(tokens)[0] if text_learns else given
        F.mse_loss(model.unet(x, t, encoder_hidden_states=embeddings, return_dict=False)[0], target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def accelerate_loop(model: Model, films: TrainingSet, steps: int, seed: int) -> Step:
    """What diffusers' own text-to-image example does in a step, on the same networks: encode, noise, predict, average."""
    torch.manual_seed(seed)
    accelerator = Accelerator(cpu=True)
    pixels = torch.from_numpy(films.images_NHW).float().div(127.5).sub(1)[:, None]
    data = DataLoader(TensorDataset(pixels, model.tokenize(films.prompts)), batch_size=BATCH, shuffle=True, drop_last=True)
    model.vae.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    scheduler = DDPMScheduler.from_config(model.scheduler_config)
    optimiser = torch.optim.AdamW(model.unet.parameters(), lr=RATE)
    rates = get_scheduler("cosine", optimizer=optimiser, num_warmup_steps=steps // 10, num_training_steps=steps)
    average = EMAModel(model.unet.parameters(), decay=EMA_DECAY)
    unet, optimiser, data, rates = accelerator.prepare(model.unet, optimiser, data, rates)
    unet.train()
    batches: Iterator[Any] = iter(())

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(data)
            batch = next(batches)
        with accelerator.accumulate(unet):
            with torch.no_grad():
                z_0 = model.vae.encode(batch[0]).latent_dist.sample() * model.vae.config.scaling_factor
                embeddings = model.text_encoder(batch[1], return_dict=False)[0]
            noise = torch.randn_like(z_0)
            t = torch.randint(0, scheduler.config.num_train_timesteps, (len(z_0),), device=z_0.device).long()
            predicted = unet(scheduler.add_noise(z_0, noise, t), t, embeddings, return_dict=False)[0]
            accelerator.backward(F.mse_loss(predicted.float(), noise.float(), reduction="mean"))
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimiser.step()
            rates.step()
            optimiser.zero_grad()
        average.step(unet.parameters())

    return step


def _recipe(steps: int, seed: int, **wishes: Any) -> Recipe:
    """As a job without wishes trains, but for these."""
    parameters = denoiser_parameters if wishes.get("text_encoder") == "frozen" else all_parameters
    return Recipe(steps, BATCH, RATE, prompt_dropout=DROPOUT, seed=seed, parameters=parameters, **wishes)


if __name__ == "__main__":
    main()
