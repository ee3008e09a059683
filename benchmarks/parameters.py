"""A training step of every kind of parameters, and one with the anti-gradient filter beside one without.

All lanes take one step each in turn, as in the training benchmark. Models are the tiny one, and one of Stable Diffusion's blocks whose
positions stand to its widths as those of Stable Diffusion 1.5 do at 512 pixels.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from benchmarks.material import phantom_films, random_model
from benchmarks.memory import films, larger_model
from benchmarks.results import keep, shown, spread, tell
from benchmarks.training import Lane, lethe_loop, run_by_turns
from services.trainer.batch_filters import JudgedBatch, open_batch_filter
from services.trainer.denoising_loss import Recipe
from services.trainer.filter_rules import AntiGradientRule
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.model import Model

RANK: Final = 4
LARGER_SIZE: Final = 320
KINDS: Final = ("full", "attention", "bias_norm", "diffit", "svdiff", "lora")
FILTERED: Final = "full, anti_gradient"
BATCHES: Final = 500  # that the filter judges on its own
TARGETS: Final = {"svdiff/lora": 1.3, f"{FILTERED}/full": 1.02}


@dataclass(frozen=True)
class Case:
    """What one model is trained on."""

    model: Model
    films: TrainingSet
    batch_size: int
    steps: int


def main() -> None:
    """Measure by turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of each lane with the tiny model; the first three are not counted")
    parser.add_argument("--larger-steps", type=int, default=13, help="the same with the larger model; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=16, help="films of a step with the tiny model; the larger one takes one")
    parser.add_argument("--larger-size", type=int, default=LARGER_SIZE, help="side of the larger model's films in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {}
    for name, case in cases(options).items():
        lanes = run_by_turns(lanes_of(case, options.seed), case.steps)
        figures[name] = {
            "lanes": {lane: {"seconds": spread(took.wall), "cpu_seconds": spread(took.cpu)} for lane, took in lanes.items()},
            "ratios": ratios(lanes),
            "filter_seconds": spread(filter_seconds(case, options.seed)),
        }
    path = keep("parameters", seed=options.seed, settings=vars(options), figures=figures)
    for name, found in figures.items():
        rows = [[lane, shown(took["seconds"], 1000, 1), shown(took["cpu_seconds"], 1000, 1)] for lane, took in found["lanes"].items()]
        tell(f"A training step, {name}", ["parameters", "step ms", "CPU ms"], rows, path)
        table = [[pair, f"{r['wall']:.3f}", f"{r['cpu']:.3f}", str(TARGETS.get(pair, "-"))] for pair, r in found["ratios"].items()]
        tell(f"Ratios of medians, {name}", ["ratio", "wall", "CPU", "target"], table, path)
        share = found["filter_seconds"]["median"] / found["lanes"]["full"]["cpu_seconds"]["median"]
        print(f"the filter on its own: CPU µs a batch {shown(found['filter_seconds'], 1e6, 0)}, {share:.2%} of a step of full\n")


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """The models, by what the tables call them."""
    torch.manual_seed(options.seed)
    phantoms = phantom_films(60, options.seed).training_set()
    found = {"tiny, 64 px": Case(random_model(phantoms.prompts, options.seed), phantoms, options.batch, options.steps)}
    if options.larger_steps:
        size = options.larger_size
        found[f"larger, {size} px"] = Case(larger_model(size), films(8, size), 1, options.larger_steps)
    return found


def lanes_of(case: Case, seed: int) -> dict[str, Lane]:
    """A lane of each kind, and one with the filter, on copies of the same model."""
    wishes: dict[str, dict[str, Any]] = {kind: {"parameters": {"kind": kind}} for kind in KINDS}
    wishes["lora"]["parameters"]["rank"] = RANK
    wishes[FILTERED] = {"parameters": {"kind": "full"}, "batch_filter": {"kind": "anti_gradient"}}
    told = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "text_encoder": "frozen", "seed": seed}
    told |= {"batch_size": case.batch_size, "steps": case.steps}
    return {
        name: Lane(lethe_loop(copy.deepcopy(case.model), case.films, Recipe.of(TrainingSpec.model_validate(told | wish))))
        for name, wish in wishes.items()
    }


def filter_seconds(case: Case, seed: int) -> list[float]:
    """CPU time of what the filter adds to a step, without the rest of it: too little for the difference of two lanes to show."""
    torch.manual_seed(seed)
    judges, counts = open_batch_filter(AntiGradientRule(kind="anti_gradient"))(case.model), SkipCounts(case.films)
    rows_B, timesteps = np.arange(case.batch_size) % len(case.films.prompts), len(case.model.alphas_cumprod)
    took: list[float] = []
    for _ in range(BATCHES):
        losses_B, t_B = torch.rand(case.batch_size), torch.randint(0, timesteps, (case.batch_size,))
        batch = JudgedBatch(losses_B, t_B, torch.zeros(case.batch_size, dtype=torch.bool), lambda: losses_B)  # noqa: B023 - never asked for
        began = time.process_time()
        kept_B = judges(batch).numpy().astype(np.bool_)
        counts.add(rows_B, kept_B)
        losses_B[torch.from_numpy(kept_B)].mean()
        took.append(time.process_time() - began)
    return took


def ratios(lanes: Mapping[str, Lane]) -> dict[str, dict[str, float]]:
    """How many times longer a step takes than LoRA's, and one with the filter than one without, by medians."""
    pairs = [(kind, "lora") for kind in KINDS if kind != "lora"] + [(FILTERED, "full")]
    return {
        f"{one}/{other}": {
            "wall": float(np.median(lanes[one].wall) / np.median(lanes[other].wall)),
            "cpu": float(np.median(lanes[one].cpu) / np.median(lanes[other].cpu)),
        }
        for one, other in pairs
    }


if __name__ == "__main__":
    main()
