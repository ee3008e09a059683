"""Real services under concurrent callers: shared passes beside one request at a time, and screening beside the bare network.

Detector and sampler are started twice each, once as they are and once with batches of one, and are asked by turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx
import torch

from benchmarks.callers import Body, Round, ask_side_by_side, percentiles
from benchmarks.material import phantom_films, random_model
from benchmarks.results import keep, shown, spread, tell
from benchmarks.screening import measure
from shared.catalog import CalibrationManifest, Catalog, ModelManifest, new_id, open_catalog
from shared.diffusion.model import Model
from shared.memorization.prompt_scoring import ScreeningSettings
from shared.settings import Settings

BARE_PROMPTS: Final = 32
SEEDS_PER_PROMPT: Final = (1, 4)  # the fewest, where batching helps most, and what the detector takes unless told otherwise
ALONE: Final = "one at a time"
TOGETHER: Final = "together"
START_SECONDS: Final = 120.0
OF_BARE: Final = "screening / whole answer, of the bare forward"
COLUMNS: Final = [
    "asked",
    "callers",
    "answers/s together",
    ALONE,
    "ratio",
    "p50 / p95 / p99 ms together",
    ALONE,
    OF_BARE,
]
TARGETS: Final = "targets: together at least 2 times one at a time at 32 callers, screening at most 1.2 times the bare forward"


@dataclass(frozen=True)
class Load:
    """How hard and how long the services are asked."""

    callers: tuple[int, ...] = (1, 8, 32)
    seconds: float = 5.0  # of one round
    rounds: int = 3
    bare_repeats: int = 15
    generation_callers: int = 8
    generation_steps: int = 20


QUICK: Final = Load(callers=(8,), seconds=0.5, rounds=1, bare_repeats=2, generation_callers=4, generation_steps=2)


def main() -> None:
    """Measure, print, keep; with --serve, be one of the services that take one request at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="whether it runs, in half a minute; its figures say nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in each service, of which one works at a time")
    parser.add_argument("--rounds", type=int, default=Load.rounds, help="rounds that count, after one that does not")
    parser.add_argument("--seconds", type=float, default=Load.seconds, help="how long a round lasts at least")
    parser.add_argument("--serve", choices=["detector", "sampler"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_one_at_a_time(options.serve)
        return
    torch.set_num_threads(options.threads)
    load = QUICK if options.quick else Load(rounds=options.rounds, seconds=options.seconds)
    prompts = phantom_films(60, options.seed).prompts
    model = random_model(prompts, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Home.make(Path(folder), model, options.seed)
        screening = screening_figures(home, model, prompts, load, options.seed, options.threads)
        generation = generation_figures(home, prompts, load, options.threads)
    name = "load-quick" if options.quick else "load"
    settings = {"threads": options.threads, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"), **vars(load)}
    path = keep(name, seed=options.seed, settings=settings, figures={"screening": screening, "generation": generation})
    tell(f"One prompt or image ({load.generation_steps} steps) a request; {TARGETS}", COLUMNS, table(screening, generation), path)


@dataclass(frozen=True)
class Home:
    """A LETHE_HOME with a model that can be drawn with and screened."""

    folder: Path
    model: str

    @classmethod
    def make(cls, folder: Path, model: Model, seed: int) -> Home:
        """Commit the model, and a calibration for each number of seeds; what it was calibrated on does not matter for speed."""
        with open_catalog(Settings(home=folder)) as catalog, tempfile.TemporaryDirectory() as weights:
            model.save(Path(weights))
            facts: dict[str, Any] = {"architecture": "tiny", "dataset": None, "base": None, "spec": {}, "metrics": {}}
            manifest = ModelManifest(id=new_id("model"), name="load", seed=seed, code_version="benchmark", **facts)
            committed = catalog.commit(manifest, Path(weights))
            known = Model.load(Path(weights), key=committed.digest)
            for seeds in SEEDS_PER_PROMPT:
                _commit_calibration(catalog, committed.id, known, ScreeningSettings(steps=1, seeds_per_prompt=seeds, seed=0))
        return cls(folder, committed.id)


def _commit_calibration(catalog: Catalog, model_id: str, model: Model, settings: ScreeningSettings) -> None:
    from services.detector.calibration import SCORES_FILE, alias_of, calibration_key

    manifest = CalibrationManifest(
        id=new_id("calibration"),
        name="load",
        model=model_id,
        dataset=new_id("dataset"),
        key=calibration_key(model, settings, ["noise_magnitude"]),
        false_positive_rate=0.01,
        threshold=1.0,
        control_median=0.5,
        steps=settings.steps,
        seeds_per_prompt=settings.seeds_per_prompt,
        signals=["noise_magnitude"],
        n_control=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SCORES_FILE).write_text('{"scores": [0.4, 0.6]}')
        catalog.set_alias("calibration", alias_of(model_id, settings), catalog.commit(manifest, Path(folder)).id)


def screening_figures(home: Home, model: Model, prompts: list[str], load: Load, seed: int, threads: int) -> list[dict[str, Any]]:
    """A row for each number of seeds and callers, served in both ways."""
    rows = []
    with both_ways("detector", home, threads) as urls:
        for seeds in SEEDS_PER_PROMPT:
            body = {"model": home.model, "seeds_per_prompt": seeds}
            asked = ({**body, "prompts": [prompt]} for prompt in itertools.cycle(prompts))
            for callers in load.callers:
                rows += [row | {"seeds_per_prompt": seeds} for row in _figures(urls, "/v1/screenings", asked, callers, load)]
            beside = measure(model, prompts[:BARE_PROMPTS], seeds, load.bare_repeats, seed)
            rows[-2:] = [_beside(row, beside) for row in rows[-2:]]
    return rows


def _beside(row: dict[str, Any], bare: dict[str, Any]) -> dict[str, Any]:
    """What the most callers saw, with what the network alone takes for as many prompts, and screening in one process."""
    answered = bare["prompts"] / row["per_second"]["median"]
    return row | {"bare": bare, "screening_of_bare": bare["ratio"]["median"], "of_bare": answered / bare["forward_seconds"]["median"]}


def generation_figures(home: Home, prompts: list[str], load: Load, threads: int) -> list[dict[str, Any]]:
    """Callers who each want one image at a time, served in both ways."""
    body = {"model": home.model, "steps": load.generation_steps}
    asked = ({**body, "prompts": [prompt], "seed": number} for number, prompt in enumerate(itertools.cycle(prompts)))
    with both_ways("sampler", home, threads) as urls:
        return _figures(urls, "/v1/generations", asked, load.generation_callers, load)


def _figures(urls: dict[str, str], path: str, asked: Iterator[Body], callers: int, load: Load) -> list[dict[str, Any]]:
    """Rounds by turns, each way of serving in each round, after one that does not count."""
    rounds: dict[str, list[Round]] = {way: [] for way in urls}
    for number in range(load.rounds + 1):
        for way, url in urls.items():
            seen = ask_side_by_side(url + path, asked, callers=callers, seconds=load.seconds if number else min(1.0, load.seconds))
            if number:
                rounds[way].append(seen)
    alone = spread([seen.per_second for seen in rounds[ALONE]])
    rows = []
    for way, all_seen in rounds.items():
        rate = spread([seen.per_second for seen in all_seen])
        row = {"callers": callers, "served": way, "per_second": rate, "of_alone": rate["median"] / alone["median"]}
        row |= {"seconds": percentiles([latency for seen in all_seen for latency in seen.latencies])}
        rows.append(row)
    return rows


@contextmanager
def both_ways(service: str, home: Home, threads: int) -> Iterator[dict[str, str]]:
    """The URLs of a service that answers together and of one that answers one at a time; they end with the block."""
    commands = {TOGETHER: [f"services.{service}"], ALONE: ["benchmarks.load", "--serve", service]}
    with ExitStack() as stack:
        urls = {way: stack.enter_context(_started(service, command, home, threads)) for way, command in commands.items()}
        for url in urls.values():
            _await(url)
        yield urls


@contextmanager
def _started(service: str, command: list[str], home: Home, threads: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LETHE_")}
    places = {"LETHE_HOME": str(home.folder), f"LETHE_{service.upper()}_URL": url, "LETHE_TORCH_THREADS": str(threads)}
    environment = kept | places
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stderr=log)
        try:
            yield url
        finally:
            process.terminate()
            process.wait()


def _await(url: str) -> None:
    """Wait until a service wants work."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(url + "/readyz", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError("a service did not start")


def serve_one_at_a_time(service: str) -> None:
    """The service as it is, but for its batches, which hold one prompt or image."""
    if service == "detector":
        from services.detector import app, screening

        with mock.patch.object(screening, "ROWS_AT_ONCE", 1):
            app.main()
    else:
        from services.sampler import app as sampler_app
        from shared.diffusion import studio

        with mock.patch.object(studio, "BATCH_IMAGES", 1):
            sampler_app.main()


def table(screening: list[dict[str, Any]], generation: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of the table, each of both ways of being served."""
    lines = []
    for together, alone in zip(*[iter(screening + generation)] * 2, strict=True):
        seeds = together.get("seeds_per_prompt")
        asked = "an image" if seeds is None else f"screening, {seeds} seed{'s' if seeds > 1 else ''}"
        rates = [shown(row["per_second"], digits=1) for row in (together, alone)]
        beside = f"{together['screening_of_bare']:.2f} / {together['of_bare']:.2f}" if "of_bare" in together else "–"
        ratio = f"{together['of_alone']:.2f}"
        lines.append([asked, str(together["callers"]), *rates, ratio, _latencies(together), _latencies(alone), beside])
    return lines


def _latencies(row: dict[str, Any]) -> str:
    return " / ".join(f"{row['seconds'][name] * 1000:.0f}" for name in ("p50", "p95", "p99"))


if __name__ == "__main__":
    main()
