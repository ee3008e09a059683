"""What the commands against running services share: the client, an operation followed to its end, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Final

import typer

from shared.cli.console import print_facts, print_json, progress_bars
from shared.client import LetheClient
from shared.client.operations import ProgressCallback
from shared.client.replies import Operation
from shared.settings import get_settings

MAX_SEED: Final = 2**53 - 1
Json = Annotated[bool, typer.Option("--json", help="Print the services' own answer.")]
_NOT_SHOWN: Final = {"progress", "kind", "error", "files", "spec", "lineage", "parts", "labels", "digest"}


def connect() -> LetheClient:
    """A client of the services at LETHE_*_URL."""
    return LetheClient.from_settings(get_settings())


def follow(title: str, wait: Callable[[ProgressCallback], Operation], *, as_json: bool) -> None:
    """Wait for an operation under a progress bar, and show its outcome."""
    with progress_bars() as bars:
        bar = bars.add(title)
        done = wait(bar.follow)
        bar.finish()
    show_operation(done, as_json=as_json)


def show_operation(operation: Operation, *, as_json: bool) -> None:
    """An operation's outcome."""
    told = operation.model_dump(mode="json")
    if as_json:
        print_json(told)
        return
    facts = {name: value for name, value in told.items() if name not in _NOT_SHOWN and value not in (None, [], {})}
    print_facts({name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in facts.items()})
