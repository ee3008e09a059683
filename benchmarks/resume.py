"""What keeping a training costs its steps, and how soon a killed training goes on."""

from __future__ import annotations

import argparse
import asyncio
import copy
import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog
import torch

from benchmarks.material import phantom_films, random_model
from benchmarks.results import FOLDER, keep, shown, spread, tell
from services.trainer.checkpointing import Cadence, TrainingCheckpoints
from services.trainer.dataset_spec import DatasetSpec, PhantomSource
from services.trainer.denoising_loss import EMA_DECAY, DenoisingLoss, Recipe, all_parameters
from services.trainer.registration import register
from services.trainer.training_progress import Progress
from services.trainer.training_set import TrainingSet
from services.trainer.uploads import Uploads
from shared.catalog import new_id, open_catalog
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Checkpoints, Optimisation, optimise
from shared.jobs.process_executor import ProcessExecutor
from shared.jobs.records import Job, JobStore
from shared.jobs.runner import JobRunner
from shared.settings import Settings
from shared.storage import DirectoryStore

BATCH: Final = 16
RATE: Final = 1e-3
NEVER: Final = 1e9
PATIENCE_SECONDS: Final = 300.0


class Bystander:
    """A job's context that nobody stops; it notes what the checkpoints cost."""

    id = "job_bench"

    def __init__(self) -> None:
        self.kept: dict[float, tuple[float, float]] = {}

    def check_cancelled(self) -> None:
        """Go on."""

    def note_safe(self) -> None:
        """No record to tell."""

    def report(self, _step: int, _total: int, _message: str, **values: float) -> None:
        """Keep the stall and the upload of each checkpoint."""
        if "checkpoint_step" in values:
            self.kept[values["checkpoint_step"]] = (values["checkpoint_stall_seconds"], values["checkpoint_upload_seconds"])


def main() -> None:
    """Measure by turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="turns with and without checkpoints")
    parser.add_argument("--steps", type=int, default=40, help="steps a turn")
    parser.add_argument("--every", type=int, default=10, help="steps between two checkpoints; far more often than by the minute")
    parser.add_argument("--kills", type=int, default=3, help="trainings that are killed and go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the table is to be read, not the log
    FOLDER.mkdir(parents=True, exist_ok=True)
    figures = stall_figures(options.rounds, options.steps, options.every, options.seed) | resume_figures(options.kills, options.threads)
    settings = {"batch": BATCH, "steps": options.steps, "every": options.every, "rounds": options.rounds, "kills": options.kills}
    path = keep("resume", seed=options.seed, settings=settings, figures=figures)
    stall = [
        shown(figures["kept_step_seconds"], 1000, 1),
        shown(figures["plain_step_seconds"], 1000, 1),
        f"{figures['ratio']:.3f}",
        shown(figures["stall_seconds"], 1000, 1),
        shown(figures["upload_seconds"], 1000, 0),
        f"{figures['checkpoint_bytes'] / 2**20:.0f}",
        f"{figures['stall_share_by_the_minute']:.5f}",
    ]
    columns = ["kept step ms", "plain step ms", "ratio", "stall ms", "upload ms", "MiB", "share of a minute"]
    tell(f"Steps of {BATCH} films, kept every {options.every} steps", columns, [stall], path)
    tell(
        "A training killed with SIGKILL goes on",
        ["restore s", "killed to next step s"],
        [[shown(figures["restore_seconds"]), shown(figures["resume_seconds"])]],
        path,
    )


def stall_figures(rounds: int, steps: int, every: int, seed: int) -> dict[str, Any]:
    """Seconds a step with and without checkpoints, by turns; what one costs; and how long reading one back takes."""
    films = phantom_films(60, seed).training_set()
    model = random_model(films.prompts, seed)
    kept: list[float] = []
    plain: list[float] = []
    costs: list[tuple[float, float]] = []
    restores: list[float] = []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            bystander = Bystander()
            with checkpointing(Path(folder), bystander, steps, every) as (checkpoints, store, progress):
                kept.append(step_seconds(copy.deepcopy(model), films, steps, turn, progress, checkpoints))
            costs += bystander.kept.values()
            began = time.perf_counter()
            found = store.newest()
            restores.append(time.perf_counter() - began)
            size = sum(tensor.nbytes for tensor in found.state.tensors.values()) if found else 0
        plain.append(step_seconds(copy.deepcopy(model), films, steps, turn, Progress(_context(Bystander()), total=steps), None))
    stall = spread([cost[0] for cost in costs])
    with_them, without = spread(kept), spread(plain)
    return {
        "kept_step_seconds": with_them,
        "plain_step_seconds": without,
        "ratio": with_them["median"] / without["median"],
        "ratio_of_fastest": with_them["fastest"] / without["fastest"],
        "stall_seconds": stall,
        "upload_seconds": spread([cost[1] for cost in costs]),
        "checkpoint_bytes": size,
        "stall_share_by_the_minute": stall["median"] / 60,
        "restore_seconds": spread(restores),
    }


@contextmanager
def checkpointing(folder: Path, bystander: Bystander, steps: int, every: int) -> Iterator[tuple[Checkpoints, CheckpointStore, Progress]]:
    """A training's own checkpoints on a directory store."""
    store = DirectoryStore(folder / "store")
    kept = CheckpointStore(store, bystander.id, scratch=folder / "scratch", keep=2)
    progress = Progress(_context(bystander), total=steps)
    uploads = Uploads()
    training = TrainingCheckpoints(
        _context(bystander),
        store=store,
        checkpoints=kept,
        uploads=uploads,
        cadence=Cadence(NEVER, every),
        progress=progress,
    )
    training.open(None, {})
    try:
        yield training.of_phase("denoiser"), kept, progress
        uploads.wait(PATIENCE_SECONDS)
        progress(steps, steps, "denoiser", torch.zeros(()))  # for what arrived after the last step was told
    finally:
        uploads.close()


def step_seconds(model: Model, films: TrainingSet, steps: int, seed: int, progress: Progress, checkpoints: Checkpoints | None) -> float:
    """Mean seconds of a step, the first one, in which the optimiser sets up its state, not counted."""
    loss = DenoisingLoss(model, films, Recipe(steps, BATCH, RATE, prompt_dropout=0.1, seed=seed))
    plan = Optimisation(steps, RATE, ema_decay=EMA_DECAY)
    marks: list[float] = []
    progress.begin_phase("denoiser", BATCH)

    def on_step(step: int, value: torch.Tensor) -> None:
        marks.append(time.perf_counter())
        progress(step + 1, steps, "denoiser", value)

    optimise(all_parameters(model), loss, plan, on_step, checkpoints)
    marks.append(time.perf_counter())
    return (marks[-1] - marks[0]) / (steps - 1)


def resume_figures(kills: int, threads: int) -> dict[str, Any]:
    """Seconds from the SIGKILL of a training's process until the next one has done a step beyond the checkpoint."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        settings = Settings(home=Path(folder).resolve())
        spec = DatasetSpec(name="bench", source=PhantomSource(format="phantom", patients=60), image_size=64)
        with open_catalog(settings) as catalog:
            dataset = register(spec, dataset_id=new_id("dataset"), catalog=catalog, settings=settings, report=_tell_nobody)
        return {"resume_seconds": spread(asyncio.run(_killed(settings, dataset.id, kills, threads)))}


async def _killed(settings: Settings, dataset: str, kills: int, threads: int) -> list[float]:
    """Kill trainings in their first phase, one after another."""
    environment = {"LETHE_HOME": str(settings.home), "LETHE_TORCH_THREADS": str(threads)}
    store = JobStore.open(settings)
    executor = ProcessExecutor(worker_module="services.trainer.worker", slots=1, torch_threads=threads, environment=environment)
    seconds: list[float] = []
    async with JobRunner(store=store, executor=executor, kinds=["training"]).serving() as runner:
        for _ in range(kills):
            spec = {"name": "bench", "dataset": dataset, "steps": 100_000, "checkpoint_every": 10}
            job_id = store.create(job_id=new_id("job"), kind="training", spec=spec).id
            runner.wake()
            await _until(store, job_id, lambda job: job.reported.get("checkpoint_step", 0) >= 10)
            kept = store.get(job_id).step
            began = time.perf_counter()
            os.kill(executor._children[job_id].process.pid, signal.SIGKILL)  # noqa: SLF001 - what the kernel would do, it does from outside too
            await _until(store, job_id, lambda job, kept=kept: job.attempt == 2 and job.step > kept)
            seconds.append(time.perf_counter() - began)
            store.request_cancel(job_id)
            await _until(store, job_id, lambda job: job.is_settled)
    store.close()
    return seconds


async def _until(store: JobStore, job_id: str, condition: Any) -> Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition(job := store.get(job_id)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job_id} is still {job.state}: {job.message}")
        await asyncio.sleep(0.02)
    return job


def _tell_nobody(_step: int, _total: int, _message: str, /, **_values: float) -> None:
    """Nobody watches the registration."""


def _context(bystander: Bystander) -> Any:
    """The bystander where a job's context is wanted."""
    return bystander


if __name__ == "__main__":
    main()
