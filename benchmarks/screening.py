"""Prompts screened per second beside the bare forward pass of the same batch: what everything around the network costs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import torch

from benchmarks.material import phantom_films, random_model
from benchmarks.results import keep, shown, spread, tell
from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise
from shared.memorization.magnitude import FORWARD_BATCH, UnconditionalCache, first_timestep, prompt_scores, screen, screening_seeds

BATCHES: Final = (1, 8, 32)
SEEDS_PER_PROMPT: Final = (1, 4)  # the fewest, where the text encoder weighs most, and what the detector takes unless told otherwise
TARGET: Final = 1.15  # ratio to the bare forward at a batch of 32


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60, help="measurements of each kind and batch, interleaved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    prompts = phantom_films(30, options.seed).prompts
    model = random_model(prompts, options.seed)
    figures = [measure(model, prompts[:batch], seeds, options.repeats, options.seed) for seeds in SEEDS_PER_PROMPT for batch in BATCHES]
    path = keep("screening", seed=options.seed, settings={"steps": 1, "repeats": options.repeats}, figures=figures)
    rows = [
        [
            str(row["prompts"]),
            str(row["seeds_per_prompt"]),
            f"{row['prompts_per_second']:.1f}",
            shown(row["screening_seconds"], 1000),
            shown(row["forward_seconds"], 1000),
            shown(row["ratio"], digits=3),
            f"{row['ratio_of_fastest']:.3f}",
        ]
        for row in figures
    ]
    tell(
        f"One-step screening with prompts that were never seen; target ratio {TARGET} at 32 prompts",
        ["prompts", "seeds", "prompts/s", "screening ms", "bare forward ms", "ratio", "of fastest"],
        rows,
        path,
    )


def measure(model: Model, prompts: list[str], seeds_per_prompt: int, repeats: int, seed: int) -> dict[str, Any]:
    """Screen these prompts, text encoder included, and run the bare network on as many rows in the same batches, by turns."""
    cache, seeds, count = UnconditionalCache(), screening_seeds(seed, seeds_per_prompt), len(prompts)
    noise = draw_noise(seeds, model.latent_shape).repeat(count, 1, 1, 1).split(FORWARD_BATCH)
    embeddings = model.encode(prompts).repeat(seeds_per_prompt).embeddings_BLE.split(FORWARD_BATCH)
    t = first_timestep(model)

    def screening() -> None:
        prompt_scores(screen(model, model.encode(prompts), seeds, steps=1, cache=cache)).tolist()

    @torch.no_grad()
    def forward() -> None:
        for rows, told in zip(noise, embeddings, strict=True):
            model.unet(rows, t, encoder_hidden_states=told, return_dict=False)

    for _ in range(3):
        screening()
        forward()
    pairs = [(_seconds(screening), _seconds(forward)) for _ in range(repeats)]
    whole, bare = spread([pair[0] for pair in pairs]), spread([pair[1] for pair in pairs])
    return {
        "prompts": count,
        "seeds_per_prompt": seeds_per_prompt,
        "prompts_per_second": count / whole["median"],
        "screening_seconds": whole,
        "forward_seconds": bare,
        "ratio": spread([screened / forwarded for screened, forwarded in pairs]),
        "ratio_of_fastest": whole["fastest"] / bare["fastest"],
    }


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
