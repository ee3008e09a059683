"""What the commands against running services share: the client, an operation followed to its end, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

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
    print_facts({name: words for name, value in told.items() if name not in _NOT_SHOWN for name, words in _told(name, value)})


def _told(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A field in words, one line for each of its parts that has parts itself; nothing of what is empty."""
    if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
        for key, inner in value.items():
            yield from _told(f"{name}.{key}", inner)
    elif words := _words(value):
        yield name, words


def _words(value: Any) -> str:
    """A value for people."""
    match value:
        case None:
            return ""
        case dict():
            return ", ".join(f"{key} {words}" for key, inner in value.items() if (words := _words(inner)))
        case list():
            return "; ".join(_words(inner) for inner in value)
        case str():
            return value
        case _:
            return json.dumps(value)
