"""The commands against running services: dataset, train, calibrate, sample, screen, mitigate."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shared.cli.console import ExitCode, print_facts, print_json, print_table, progress_bars
from shared.client import LetheClient, MitigationProblemError
from shared.client.replies import Evidence, Image, Operation
from shared.errors import InvalidRequestError
from shared.settings import get_settings

_STDIN: Final = "-"
_MAX_SEED: Final = 2**53 - 1

Json = Annotated[bool, typer.Option("--json", help="Print the services' own answer.")]
Seed = Annotated[int, typer.Option(min=0, max=_MAX_SEED, help="Image j of each prompt has this seed plus j.")]
Model = Annotated[str, typer.Argument(help="A model's id (mdl_…).")]
Prompts = Annotated[list[str], typer.Argument(help="Prompts; a single '-' reads them from standard input, one a line.")]
Images = Annotated[int, typer.Option(min=1, max=16, help="Images of each prompt.")]
SamplingSteps = Annotated[int, typer.Option(min=1, max=200, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(min=0, max=30, help="How strongly the prompt pulls.")]
Scheduler = Annotated[str, typer.Option(help="ddim, dpm-solver++ or euler.")]
Out = Annotated[Path, typer.Option(help="Folder that the PNGs are written to.")]

dataset = typer.Typer(help="Register data sets and look at them.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add them all."""
    app.add_typer(dataset, name="dataset")
    for command in (train, calibrate, screen, sample, mitigate):
        app.command()(command)


@dataset.command()
def register(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    source: Annotated[str, typer.Option("--format", help="chexpert, or phantom for synthetic patients.")] = "chexpert",
    uri: Annotated[str | None, typer.Option(help="file:// folder within the services' LETHE_IMPORT_ROOTS.")] = None,
    csv: Annotated[str, typer.Option(help="The table of films, below the folder.")] = "train.csv",
    reports_csv: Annotated[str | None, typer.Option(help="The table of reports, for --template impression.")] = None,
    patients: Annotated[int, typer.Option(help="Synthetic patients, with --format phantom.")] = 400,
    image_size: Annotated[int, typer.Option(help="Side of the square films, in pixels.")] = 64,
    template: Annotated[str, typer.Option(help="findings, demographics or impression.")] = "findings",
    control_fraction: Annotated[float, typer.Option(help="Share of the patients that is never trained on.")] = 0.2,
    canaries: Annotated[int, typer.Option(help="Films to repeat on purpose; 0 for real data.")] = 0,
    repeats: Annotated[int, typer.Option(help="How often a canary is repeated.")] = 40,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Where the splits' randomness starts.")] = 0,
    as_json: Json = False,
) -> None:
    """Read films from a folder, split them by patient, and commit them as a data set."""
    folder = {"uri": uri} if uri is not None else {}
    reports = {"reports_csv": reports_csv} if reports_csv is not None else {}
    sources: dict[str, dict[str, Any]] = {"phantom": {"patients": patients, **folder}, "chexpert": {"csv": csv, **folder, **reports}}
    spec = {
        "name": name,
        "source": {"format": source, **sources.get(source, folder)},
        "image_size": image_size,
        "prompt": {"template": template, "uncertain": "ignore"},
        "views": ["frontal"],
        "control_fraction": control_fraction,
        "canaries": {"count": canaries, "repeats": repeats} if canaries else None,
        "seed": seed,
    }
    with _client() as client, progress_bars() as bars:
        started = client.trainer.register_dataset(spec)
        bar = bars.add("Registering the data set")
        done = client.trainer.wait_for_dataset(started.id, on_progress=bar.follow)
        bar.finish()
    _show_operation(done, as_json=as_json)


@dataset.command("list")
def list_datasets(as_json: Json = False) -> None:
    """The newest data sets."""
    with _client() as client:
        found = client.trainer.list_datasets()
    if as_json:
        print_json([item.model_dump(mode="json") for item in found])
    else:
        print_table("", ("id", "name", "state", "films"), [_dataset_cells(item) for item in found])


@dataset.command()
def show(dataset_id: Annotated[str, typer.Argument(help="A data set's id (ds_…).")], as_json: Json = False) -> None:
    """One data set: films and patients per split, how unique prompts are, warnings."""
    with _client() as client:
        found = client.trainer.get_dataset(dataset_id)
    _show_operation(found, as_json=as_json)


def train(
    dataset_id: Annotated[str, typer.Argument(help="A data set's id (ds_…).")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "model",
    base: Annotated[str | None, typer.Option(help="A model to go on from; without it, a tiny one from random weights.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the denoiser.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Films of one step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak of the learning rate.")] = 1e-3,
    prompt_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of visits without prompt; without any, the model cannot be guided.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=_MAX_SEED, help="Where the training's randomness starts.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a model on a data set's training films and canaries."""
    spec = {
        "name": name,
        "dataset": dataset_id,
        "base": base,
        "architecture": "tiny",
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "prompt_dropout": prompt_dropout,
        "seed": seed,
    }
    with _client() as client, progress_bars() as bars:
        started = client.trainer.train(spec)
        bar = bars.add(f"Training ({started.id})")
        done = client.trainer.wait_for_training(started.id, on_progress=bar.follow)
        bar.finish()
    _show_operation(done, as_json=as_json)


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
    with _client() as client, progress_bars() as bars:
        started = client.detector.calibrate(spec)
        bar = bars.add("Calibrating the detector")
        done = client.detector.wait_for_calibration(started.id, on_progress=bar.follow)
        bar.finish()
    _show_operation(done, as_json=as_json)


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
    with _client() as client:
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
    with _client() as client:
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
    with _client() as client:
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


def _client() -> LetheClient:
    """The services at LETHE_*_URL."""
    return LetheClient.from_settings(get_settings())


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


def _show_operation(operation: Operation, *, as_json: bool) -> None:
    """An operation's outcome."""
    told = operation.model_dump(mode="json")
    if as_json:
        print_json(told)
        return
    hidden = {"progress", "kind", "error", "files", "spec"}
    facts = {name: value for name, value in told.items() if name not in hidden and value not in (None, [], {})}
    print_facts({name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in facts.items()})


def _dataset_cells(operation: Operation) -> tuple[str, str, str, str]:
    """A data set as a row."""
    told = operation.model_dump()
    return operation.id, str(told.get("name", "")), operation.state, str(sum((told.get("counts") or {}).values()))


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
