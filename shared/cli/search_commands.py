"""The commands about searches of parameters to tune: start, show, list, trials, apply, cancel, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli.assignments import Assignments, assign
from shared.cli.console import OUT, print_facts, print_json, print_table
from shared.cli.conversation import MAX_SEED, Json, connect, follow, show_operation
from shared.cli.search_table import found_by, live_trials, trials_table
from shared.client.replies import Operation

search = typer.Typer(help="Search which parameters to tune, so that quality comes with little memorization.", no_args_is_help=True)

SearchId = Annotated[str, typer.Argument(help="A search's id (job_…).")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the operation at once, and let it go on.")]


@search.command()
def start(
    dataset_id: Annotated[str, typer.Argument(help="A data set with canaries and control films (ds_…).")],
    base: Annotated[str, typer.Argument(help="The model that every trial goes on from (mdl_…).")],
    space: Annotated[str, typer.Option(help="svdiff, diffit, attention, lora, or auto for all of them.")] = "svdiff",
    name: Annotated[str, typer.Option(help="A name for people.")] = "search",
    objective: Annotated[list[str] | None, typer.Option(help="A reward to go by; again for more. Without it memorization and fid.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each trial.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Films of one step.")] = 16,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Trainings that are begun at most.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Trials at once, within the trainer's LETHE_JOB_SLOTS.")] = 1,
    sampler: Annotated[str, typer.Option(help="tpe, nsga2 or random.")] = "tpe",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Where the choices' randomness starts.")] = 0,
    others: Assignments = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Begin a search and follow it; --set reaches every other field, such as training.batch_filter or evaluation.noises."""
    spec: dict[str, Any] = {
        "training": {"name": name, "dataset": dataset_id, "base": base, "steps": steps, "batch_size": batch_size},
        "space": space,
        "trials": trials,
        "parallel": parallel,
        "sampler": sampler,
        "seed": seed,
    }
    if objective:
        spec["objectives"] = objective
    with connect() as client:
        started = client.trainer.search(assign(spec, others))
        if no_wait:
            _show(started, as_json=as_json)
            return
        if as_json:
            _show(client.trainer.wait_for_search(started.id), as_json=True)
            return
        with live_trials(client, started.id):
            done = client.trainer.wait_for_search(started.id)
    _show(done, as_json=False)


@search.command()
def show(search_id: SearchId, as_json: Json = False) -> None:
    """One search: its state, its front, the recommended point."""
    with connect() as client:
        found = client.trainer.get_search(search_id)
    _show(found, as_json=as_json)


@search.command("list")
def list_searches(as_json: Json = False) -> None:
    """The newest searches."""
    with connect() as client:
        found = client.trainer.list_searches()
    if as_json:
        print_json([item.model_dump(mode="json") for item in found])
    else:
        print_table("", ("id", "name", "state", "trials over", "on the front"), [_cells(item) for item in found])


@search.command()
def trials(search_id: SearchId, as_json: Json = False) -> None:
    """All that a search tried: masks, rates, figures; ● is on the front, ★ recommended."""
    with connect() as client:
        found, tried = client.trainer.get_search(search_id), client.trainer.search_trials(search_id)
    if as_json:
        print_json([trial.model_dump(mode="json") for trial in tried])
    else:
        OUT.print(trials_table(found, tried))


@search.command()
def apply(
    search_id: SearchId,
    dataset_id: Annotated[str, typer.Option("--dataset", help="The data set to train on (ds_…).")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "model",
    trial: Annotated[int | None, typer.Option(min=0, max=999, help="A trial that succeeded; without it, the recommended one.")] = None,
    base: Annotated[str | None, typer.Option(help="Another base with the same attention modules; without it, the search's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the training; without it, those of a trial.")] = None,
    others: Assignments = None,
    as_json: Json = False,
) -> None:
    """Train with what a search found; --set changes fields of the training, all else is as in the search."""
    given = {"name": name, "dataset": dataset_id, "base": base, "steps": steps}
    training = assign({field: value for field, value in given.items() if value is not None}, others)
    with connect() as client:
        started = client.trainer.apply_search(search_id, {"training": training, "trial": trial})
        follow(
            f"Training ({started.id})",
            lambda progress: client.trainer.wait_for_training(started.id, on_progress=progress),
            as_json=as_json,
        )


@search.command()
def cancel(search_id: SearchId, as_json: Json = False) -> None:
    """Stop a search and its running trials; what is over is kept."""
    with connect() as client:
        stopped = client.trainer.cancel_search(search_id)
    show_operation(stopped, as_json=as_json)


@search.command()
def report(search_id: SearchId, out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("search.html")) -> None:
    """Write a search's report: its front, the masks that were tried, the recommended point; while it runs, those so far."""
    with connect() as client:
        out.write_bytes(client.trainer.search_report(search_id))
    typer.echo(f"Written to {out}")


def _show(operation: Operation, *, as_json: bool) -> None:
    """A search's outcome, or what there is of it."""
    if as_json:
        print_json(operation.model_dump(mode="json"))
        return
    found = found_by(operation)
    facts = {"id": operation.id, "state": operation.state}
    if found:
        facts["trials"] = ", ".join(f"{count} {state}" for state, count in found["trials"].items() if count)
        facts["front"] = ", ".join(str(point["trial"]) for point in found["pareto"]) or "nothing"
    point = found.get("recommended")
    if point:
        facts |= {
            "recommended": f"trial {point['trial']}: {point['kind']} at {point['learning_rate']:.3g}, {_figures(point['values'])}",
            "because": str(point["rule"]),
            "modules": ", ".join(point["blocks"]) or "none",
            "model": point["model"] or "not kept",
        }
    if base := found.get("base"):
        facts["untuned base"] = _figures(base["values"])
        if floors := {name: floor for name, floor in found["floors"].items() if name in base["values"]}:
            facts["real films"] = f"{_figures(floors)}; better cannot be told apart"
    print_facts(facts)


def _figures(values: Mapping[str, float]) -> str:
    """Figures by their names, in a row."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _cells(operation: Operation) -> tuple[str, ...]:
    """A search as a row."""
    told, found = operation.model_dump(), found_by(operation)
    over = sum(count for state, count in found.get("trials", {}).items() if state != "running")
    asked = told["spec"]["trials"]
    return operation.id, str(told.get("name", "")), operation.state, f"{over} of {asked}", str(len(found.get("pareto", [])))
