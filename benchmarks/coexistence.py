"""Screening while a training runs in another process: how long each waits for the other on the same cores.

Two workers are started in turn, alone and together; each writes when a round ended and how many seconds it took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from benchmarks.results import keep, tell

Role = Literal["screening", "training"]

PROMPTS: Final = 8  # a request of the size that a caller with a list of prompts sends
SEEDS_PER_PROMPT: Final = 4
BATCH: Final = 16
UNCOUNTED: Final = 3  # first rounds, in which libraries set themselves up
START_SECONDS: Final = 120.0
ENDLESS: Final = 1_000_000


def main() -> None:
    """Measure the three situations, print, keep; with --role, be one of the workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each of the three situations")
    parser.add_argument("--training-threads", type=int, default=2)
    parser.add_argument("--screening-threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--role", choices=["screening", "training"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        work = screen_without_end if options.role == "screening" else train_without_end
        work(options.seed, lambda seconds: print(time.monotonic(), seconds, flush=True))
        return
    threads: dict[Role, int] = {"screening": options.screening_threads, "training": options.training_threads}
    alone = {role: situation([role], threads, options.seconds, options.seed)[role] for role in threads}
    together = situation(list(threads), threads, options.seconds, options.seed)
    figures = {
        "screening alone": percentiles(alone["screening"]),
        "screening beside training": percentiles(together["screening"]),
        "training step alone": percentiles(alone["training"]),
        "training step beside screening": percentiles(together["training"]),
    }
    settings = {"threads": threads, "prompts": PROMPTS, "seeds_per_prompt": SEEDS_PER_PROMPT, "seconds": options.seconds}
    path = keep("coexistence", seed=options.seed, settings=settings | {"OMP_WAIT_POLICY": "PASSIVE"}, figures=figures)
    rows = [[name, f"{row['p50'] * 1000:.0f}", f"{row['p95'] * 1000:.0f}", str(row["n"])] for name, row in figures.items()]
    tell(
        f"{PROMPTS} prompts x {SEEDS_PER_PROMPT} seeds, request after request, and a training",
        ["work", "p50 ms", "p95 ms", "n"],
        rows,
        path,
    )


def percentiles(seconds: list[float]) -> dict[str, Any]:
    """The middle and the slow end."""
    return {"p50": float(np.quantile(seconds, 0.5)), "p95": float(np.quantile(seconds, 0.95)), "n": len(seconds)}


def situation(roles: list[Role], threads: dict[Role, int], seconds: float, seed: int) -> dict[Role, list[float]]:
    """Run these workers side by side; answers the rounds that each began while all of them were at work."""
    with tempfile.TemporaryDirectory() as folder:
        files = {role: Path(folder) / role for role in roles}
        workers = [_start(role, threads[role], seed, path) for role, path in files.items()]
        try:
            _await_rounds(workers, list(files.values()))
            ready = time.monotonic()
            time.sleep(seconds)
            until = time.monotonic()
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
        return {role: [took for ended, took in _rounds(path) if ready <= ended - took and ended <= until] for role, path in files.items()}


def screen_without_end(seed: int, done: Callable[[float], None]) -> None:
    """One request after another, all of them new to the text encoder, the noises known."""
    from benchmarks.material import phantom_films, random_model
    from shared.memorization.magnitude import UnconditionalCache, prompt_scores, screen, screening_seeds

    prompts = phantom_films(60, seed).prompts
    model = random_model(prompts, seed)
    cache, seeds = UnconditionalCache(), screening_seeds(seed, SEEDS_PER_PROMPT)
    while True:
        started = time.perf_counter()
        prompt_scores(screen(model, model.encode(prompts[:PROMPTS]), seeds, steps=1, cache=cache)).tolist()
        done(time.perf_counter() - started)


def train_without_end(seed: int, done: Callable[[float], None]) -> None:
    """The training loop as a job runs it."""
    from benchmarks.material import phantom_films, random_model
    from services.trainer.denoising_loss import Recipe
    from services.trainer.training import train_denoiser

    films = phantom_films(60, seed).training_set()
    model = random_model(films.prompts, seed)
    marks = [time.perf_counter()]

    def on_step(*_facts: object) -> None:
        marks.append(time.perf_counter())
        done(marks[-1] - marks[-2])

    train_denoiser(model, films, Recipe(ENDLESS, BATCH, 1e-3, prompt_dropout=0.1, seed=seed), on_step)


def _start(role: Role, threads: int, seed: int, path: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.coexistence", "--role", role, "--seed", str(seed)]
    with path.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file)


def _await_rounds(workers: list[subprocess.Popen[bytes]], paths: list[Path]) -> None:
    """Wait until every worker is past its first rounds."""
    deadline = time.monotonic() + START_SECONDS
    while min(len(_rounds(path)) for path in paths) < UNCOUNTED:
        if any(worker.poll() is not None for worker in workers) or time.monotonic() > deadline:
            raise RuntimeError("a worker of the benchmark ended or did not start; its messages stand above")
        time.sleep(0.1)


def _rounds(path: Path) -> list[tuple[float, float]]:
    """When each finished round ended, by the machine's clock, and how long it took."""
    lines = path.read_text().splitlines(keepends=True)
    pairs = [line.split() for line in lines if line.endswith("\n")]
    return [(float(ended), float(took)) for ended, took in pairs]


if __name__ == "__main__":
    main()
