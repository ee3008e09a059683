"""The commands about data sets: register, list, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli.assignments import Assignments, assign
from shared.cli.console import print_json, print_table
from shared.cli.conversation import Json, connect, follow, show_operation
from shared.client.replies import Operation

dataset = typer.Typer(help="Register data sets and look at them.", no_args_is_help=True)

DatasetId = Annotated[str, typer.Argument(help="A data set's id (ds_…).")]


@dataset.command()
def register(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    source: Annotated[
        str, typer.Option("--format", help="chexpert, mimic-cxr-jpg, imagefolder, dicom, or phantom for synthetic patients.")
    ] = "chexpert",
    uri: Annotated[str | None, typer.Option(help="file:// folder within the services' LETHE_IMPORT_ROOTS.")] = None,
    csv: Annotated[str | None, typer.Option(help="The table of films, below the folder, with --format chexpert.")] = None,
    reports_csv: Annotated[str | None, typer.Option(help="The table of reports, for --template impression.")] = None,
    patients: Annotated[int | None, typer.Option(help="Synthetic patients, with --format phantom.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the square films, in pixels.")] = 64,
    template: Annotated[str, typer.Option(help="findings, demographics, impression, report or text.")] = "findings",
    control_fraction: Annotated[float, typer.Option(help="Share of the patients that is never trained on.")] = 0.2,
    canaries: Annotated[int, typer.Option(help="Films to repeat on purpose; 0 for real data.")] = 0,
    repeats: Annotated[int, typer.Option(help="How often a canary is repeated.")] = 40,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Where the splits' randomness starts.")] = 0,
    others: Assignments = None,
    as_json: Json = False,
) -> None:
    """Read films from a folder, split them by patient, and commit them as a data set."""
    given = {"uri": uri, "csv": csv, "reports_csv": reports_csv, "patients": patients}
    spec: dict[str, Any] = {
        "name": name,
        "source": {"format": source, **{field: value for field, value in given.items() if value is not None}},
        "image_size": image_size,
        "prompt": {"template": template},
        "control_fraction": control_fraction,
        "canaries": {"count": canaries, "repeats": repeats} if canaries else None,
        "seed": seed,
    }
    with connect() as client:
        started = client.trainer.register_dataset(assign(spec, others))
        follow(
            "Registering the data set",
            lambda progress: client.trainer.wait_for_dataset(started.id, on_progress=progress),
            as_json=as_json,
        )


@dataset.command("list")
def list_datasets(as_json: Json = False) -> None:
    """The newest data sets."""
    with connect() as client:
        found = client.trainer.list_datasets()
    if as_json:
        print_json([item.model_dump(mode="json") for item in found])
    else:
        print_table("", ("id", "name", "state", "films"), [_cells(item) for item in found])


@dataset.command()
def show(dataset_id: DatasetId, as_json: Json = False) -> None:
    """One data set: films and patients per split, how unique prompts are, what the gates found, warnings."""
    with connect() as client:
        found = client.trainer.get_dataset(dataset_id)
    show_operation(found, as_json=as_json)


@dataset.command()
def page(dataset_id: DatasetId, out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("dataset.html")) -> None:
    """Write a data set's page, with histograms and a sheet of its films; it shows films, so keep it where the films may be."""
    with connect() as client:
        out.write_bytes(client.trainer.dataset_page(dataset_id))
    typer.echo(f"Written to {out}")


def _cells(operation: Operation) -> tuple[str, str, str, str]:
    """A data set as a row."""
    told = operation.model_dump()
    return operation.id, str(told.get("name", "")), operation.state, str(sum((told.get("counts") or {}).values()))
