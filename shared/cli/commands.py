"""The commands against running services; those that judge prompts and draw images are here: calibrate, screen, sample, mitigate."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shared.cli.audit_commands import audit_log
from shared.cli.console import ExitCode, print_json, print_table
from shared.cli.conversation import MAX_SEED, Json, connect, follow
from shared.cli.dataset_commands import dataset
from shared.cli.deployment_commands import bootstrap, migrate
from shared.cli.key_commands import key
from shared.cli.search_commands import search
from shared.cli.training_commands import models, train
from shared.client import MitigationProblemError
from shared.client.replies import Evidence, Image
from shared.errors import InvalidRequestError

_STDIN: Final = "-"

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Image j of each prompt has this seed plus j.")]
Model = Annotated[str, typer.Argument(help="A model's id (mdl_…).")]
Prompts = Annotated[list[str], typer.Argument(help="Prompts; a single '-' reads them from standard input, one a line.")]
Images = Annotated[int, typer.Option(min=1, max=16, help="Images of each prompt.")]
SamplingSteps = Annotated[int, typer.Option(min=1, max=200, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(min=0, max=30, help="How strongly the prompt pulls.")]
Scheduler = Annotated[str, typer.Option(help="ddim, dpm-solver++ or euler.")]
Out = Annotated[Path, typer.Option(help="Folder that the PNGs are written to.")]


def add_commands(app: typer.Typer) -> None:
    """Add them all."""
    app.add_typer(dataset, name="dataset")
    app.add_typer(models, name="model")
    app.add_typer(search, name="search")
    app.add_typer(key, name="key")
    app.add_typer(audit_log, name="audit-log")
    for command in (train, calibrate, screen, sample, mitigate, migrate, bootstrap):
        app.command()(command)


def calibrate(
    model: Model,
    dataset_id: Annotated[str, typer.Argument(help="The data set whose control prompts set the threshold (ds_…).")],
    false_positive_rate: Annotated[float, typer.Option(help="Share of ordinary prompts that may be flagged.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, max=10, help="Denoising steps of the score.")] = 1,
    seeds_per_prompt: Annotated[int, typer.Option(min=1, max=32, help="Noises that a score is averaged over.")] = 4,
    as_json: Json = False,
) -> None:
    """Set the threshold that screening a model's prompts needs."""
    spec = {
        "model": model,
        "dataset": dataset_id,
        "false_positive_rate": false_positive_rate,
        "signals": ["noise_magnitude"],
        "steps": steps,
        "seeds_per_prompt": seeds_per_prompt,
    }
    with connect() as client:
        started = client.detector.calibrate(spec)
        follow(
            "Calibrating the detector",
            lambda progress: client.detector.wait_for_calibration(started.id, on_progress=progress),
            as_json=as_json,
        )


def screen(
    model: Model,
    prompts: Prompts,
    steps: Annotated[int, typer.Option(min=1, max=10, help="As calibrated.")] = 1,
    seeds_per_prompt: Annotated[int, typer.Option(min=1, max=32, help="As calibrated.")] = 4,
    seed: Seed = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say which words carry the score.")] = False,
    as_json: Json = False,
) -> None:
    """Judge prompts before anything is drawn; exit code 4 when one of them is not allowed as it is."""
    asked = read_prompts(prompts)
    with connect() as client:
        screening = client.detector.screen(
            model=model, prompts=asked, steps=steps, seeds_per_prompt=seeds_per_prompt, seed=seed, explain=explain
        )
    if as_json:
        print_json(screening.model_dump(mode="json"))
    else:
        columns = ("prompt", "decision", "score", "p", "words" if explain else "why")
        rows = []
        for prompt, verdict in zip(asked, screening.results, strict=True):
            words = sorted(verdict.tokens or [], key=lambda word: word.weight, reverse=True)[:5]
            told = ", ".join(f"{word.text} {word.weight:.0%}" for word in words) if explain else "; ".join(verdict.reasons)
            rows.append((prompt, verdict.decision, f"{verdict.score:.3f}", f"{verdict.p_value:.4f}", told))
        print_table("", columns, rows)
    if any(verdict.decision != "allow" for verdict in screening.results):
        raise typer.Exit(ExitCode.REFUSED)


def sample(
    model: Model,
    prompts: Prompts,
    images: Images = 1,
    steps: SamplingSteps = 50,
    guidance: Guidance = 7.5,
    scheduler: Scheduler = "ddim",
    seed: Seed = 0,
    out: Out = Path("images"),
    as_json: Json = False,
) -> None:
    """Draw images plainly, unscreened."""
    asked = read_prompts(prompts)
    request = _generation(model, asked, images, steps, guidance, scheduler, seed)
    with connect() as client:
        generation = client.sampler.generate(request)
    paths = write_images(generation.images, out)
    if as_json:
        print_json(generation.model_dump(mode="json"))
    else:
        cells = [(asked[image.prompt_index], str(image.seed), str(path)) for image, path in zip(generation.images, paths, strict=True)]
        print_table("", ("prompt", "seed", "file"), cells)


def mitigate(
    model: Model,
    prompts: Prompts,
    strategy: Annotated[str, typer.Option(help="auto, or a name of GET /v1/strategies of the mitigator.")] = "auto",
    parameters: Annotated[str, typer.Option(help="The strategy's parameters as a JSON object.")] = "{}",
    images: Images = 1,
    steps: SamplingSteps = 50,
    guidance: Guidance = 7.5,
    scheduler: Scheduler = "ddim",
    seed: Seed = 0,
    out: Out = Path("images"),
    as_json: Json = False,
) -> None:
    """Draw images that are no copies, with evidence; exit code 4 and no image when that cannot be done."""
    asked = read_prompts(prompts)
    mitigation = {"strategy": strategy, "parameters": parse_parameters(parameters)}
    request = _generation(model, asked, images, steps, guidance, scheduler, seed) | {"mitigation": mitigation}
    with connect() as client:
        try:
            generation = client.mitigator.generate(request)
        except MitigationProblemError as problem:
            if as_json:
                print_json(problem.body)
            else:
                _print_evidence([("refused", Evidence.model_validate(item)) for item in problem.evidence])
            raise
    paths = write_images(generation.images, out)
    if as_json:
        print_json(generation.model_dump(mode="json"))
    else:
        _print_evidence([(str(path), image.evidence) for image, path in zip(generation.images, paths, strict=True)])


def read_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts; from standard input they stay out of the process list and the shell's history."""
    if list(prompts) != [_STDIN]:
        return list(prompts)
    lines = [line.rstrip("\n") for line in sys.stdin]
    found = [line for line in lines if line.strip()]
    if not found:
        raise InvalidRequestError("Standard input holds no prompt.")
    return found


def parse_parameters(text: str) -> dict[str, Any]:
    """A JSON object from the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequestError("--parameters is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidRequestError("--parameters must be a JSON object.")
    return value


def write_images(images: Iterable[Image], folder: Path) -> list[Path]:
    """Write inline images as prompt-<index>-seed-<seed>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for image in images:
        path = folder / f"prompt-{image.prompt_index}-seed-{image.seed}.png"
        path.write_bytes(base64.b64decode(image.png or ""))
        paths.append(path)
    return paths


def _generation(model: str, prompts: list[str], images: int, steps: int, guidance: float, scheduler: str, seed: int) -> dict[str, Any]:
    """A request for images."""
    return {
        "model": model,
        "prompts": prompts,
        "images_per_prompt": images,
        "steps": steps,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "seed": seed,
    }


def _print_evidence(rows: Sequence[tuple[str, Evidence]]) -> None:
    """What mitigation did to each image."""
    columns = ("image", "strategy", "score", "similarity", "agreement", "changes")
    cells = []
    for place, evidence in rows:
        changes = "; ".join(map(str, evidence.model_dump().get("changes") or []))
        score, similarity = (
            _before_after(evidence.score_before, evidence.score_after),
            _before_after(evidence.similarity_before, evidence.similarity_after),
        )
        kept = "–" if evidence.prompt_fidelity is None else f"{evidence.prompt_fidelity:.2f}"
        cells.append((place, evidence.strategy, score, similarity, kept, changes))
    print_table("", columns, cells)


def _before_after(before: float | None, after: float | None) -> str:
    """Two figures with an arrow."""
    return " → ".join("–" if value is None else f"{value:.3f}" for value in (before, after))
