"""The commands that make models: train one, import one."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.cli.assignments import Assignments, assign
from shared.cli.console import print_json, print_table
from shared.cli.conversation import MAX_SEED, Json, connect, follow

models = typer.Typer(help="Import models and look at them.", no_args_is_help=True)


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
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Where the training's randomness starts.")] = 0,
    others: Assignments = None,
    as_json: Json = False,
) -> None:
    """Train a model on a data set's training films and canaries."""
    spec = {
        "name": name,
        "dataset": dataset_id,
        "base": base,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "prompt_dropout": prompt_dropout,
        "seed": seed,
    }
    with connect() as client:
        started = client.trainer.train(assign(spec, others))
        follow(
            f"Training ({started.id})",
            lambda progress: client.trainer.wait_for_training(started.id, on_progress=progress),
            as_json=as_json,
        )


@models.command("import")
def import_model(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    uri: Annotated[str, typer.Option(help="file:// diffusers folder within the services' LETHE_IMPORT_ROOTS.")],
    as_json: Json = False,
) -> None:
    """Take a Stable Diffusion 1.x or 2.x folder into the catalog, to sample from or to train on; safetensors only."""
    with connect() as client:
        started = client.trainer.import_model({"name": name, "uri": uri})
        follow(
            f"Importing ({started.id})",
            lambda progress: client.trainer.wait_for_import(started.id, on_progress=progress),
            as_json=as_json,
        )


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """The newest models."""
    with connect() as client:
        found = [model.model_dump(mode="json") for model in client.trainer.list_models()]
    if as_json:
        print_json(found)
    else:
        columns = ("id", "name", "architecture", "dataset", "base")
        print_table("", columns, [[str(model.get(column) or "") for column in columns] for model in found])


@models.command()
def show(model_id: Annotated[str, typer.Argument(help="A model's id (mdl_…) or alias.")]) -> None:
    """One model's manifest, as JSON: what it was trained from and on, by which code, with which figures."""
    with connect() as client:
        print_json(client.trainer.get_model(model_id).model_dump(mode="json"))
