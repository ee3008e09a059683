"""A training step beside a bare loop with the same network, batch and optimiser: what the hooks, the cache and the average cost."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.material import phantom_films, random_model
from benchmarks.results import keep, shown, spread, tell
from services.trainer.denoising_loss import EMA_DECAY, DenoisingLoss, Recipe, all_parameters
from services.trainer.training_set import TrainingSet
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Optimisation, optimise

BATCH: Final = 16
RATE: Final = 1e-3
UNCOUNTED: Final = 2  # steps in which the optimiser sets up its state
TARGET: Final = 1.05


def main() -> None:
    """Measure by turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=22, help="steps a turn; the first two are not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    films = phantom_films(60, options.seed).training_set()
    model = random_model(films.prompts, options.seed)
    ours: list[float] = []
    bare: list[float] = []
    for turn in range(options.rounds):
        ours += our_steps(copy.deepcopy(model), films, options.steps, turn)
        bare += bare_steps(copy.deepcopy(model), options.steps, turn)
    whole, plain = spread(ours), spread(bare)
    figures = {
        "step_seconds": whole,
        "bare_seconds": plain,
        "ratio": whole["median"] / plain["median"],
        "ratio_of_fastest": whole["fastest"] / plain["fastest"],
    }
    path = keep("training", seed=options.seed, settings={"batch": BATCH, "steps": options.steps, "rounds": options.rounds}, figures=figures)
    row = [shown(whole, 1000, 1), shown(plain, 1000, 1), f"{figures['ratio']:.3f}", f"{figures['ratio_of_fastest']:.3f}"]
    tell(f"A training step of {BATCH} films; target ratio {TARGET}", ["step ms", "bare step ms", "ratio", "of fastest"], [row], path)


def our_steps(model: Model, films: TrainingSet, steps: int, seed: int) -> list[float]:
    """Seconds of each step of the training loop."""
    loss = DenoisingLoss(model, films, Recipe(steps, BATCH, RATE, prompt_dropout=0.1, seed=seed))
    plan = Optimisation(steps, RATE, ema_decay=EMA_DECAY)
    return _laps(lambda lap: optimise(all_parameters(model), loss, plan, lambda _step, _loss: lap()))


def bare_steps(model: Model, steps: int, seed: int) -> list[float]:
    """Seconds of each step of forward, backward, clipping and AdamW on a batch that is already there."""
    modules = all_parameters(model)
    parameters = [p for module in modules for p in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, *model.latent_shape, generator=generator)
    target = torch.randn(x.shape, generator=generator)
    t = torch.randint(0, 1000, (BATCH,), generator=generator)
    tokens = model.tokenize(["left pleural effusion"] * BATCH)

    def loop(lap: Callable[[], None]) -> None:
        for module in modules:
            module.train()
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            embeddings: Tensor = model.text_encoder(tokens)[0]
            F.mse_loss(model.unet(x, t, encoder_hidden_states=embeddings, return_dict=False)[0], target).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            lap()

    return _laps(loop)


def _laps(loop: Callable[[Callable[[], None]], None]) -> list[float]:
    """The times between the calls that a loop makes at the end of each step, without the first ones."""
    marks = [time.perf_counter()]
    loop(lambda: marks.append(time.perf_counter()))
    seconds = [after - before for before, after in pairwise(marks)]
    return seconds[UNCOUNTED:]


if __name__ == "__main__":
    main()
