"""The commands about the audit log, for who answers for it: they read the database and the object store of the settings."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.auditing import Anchors, AuditLog, ChainedEvent, verify_log
from shared.cli.console import ExitCode, print_facts, print_json, print_table
from shared.cli.conversation import Json
from shared.settings import get_settings

audit_log = typer.Typer(help="Verify, list and export what callers did, from the database of the settings.", no_args_is_help=True)

_Filter = Annotated[str | None, typer.Option(help="Only events of this one.")]


@audit_log.command()
def verify(as_json: Json = False) -> None:
    """Look for removed, altered, moved and inserted events; exit code 1 when something is wrong, which is then named."""
    with _log() as log, closing(Anchors.open(get_settings())) as anchors:
        verification = verify_log(log, anchors)
    findings = [{"sequence": finding.sequence, "what": finding.what} for finding in verification.findings]
    if as_json:
        print_json({"events": verification.events, "anchors": verification.anchors, "findings": findings})
    else:
        verdict = f"broken at {len(findings)} place(s)" if findings else "whole"
        print_facts({"events": str(verification.events), "anchors": str(verification.anchors), "the log is": verdict})
        if findings:
            print_table("", ("event", "what is wrong"), [(str(finding.sequence), finding.what) for finding in verification.findings])
    if findings:
        raise typer.Exit(ExitCode.FAILURE)


@audit_log.command("list")
def list_events(
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 20,
    action: _Filter = None,
    outcome: _Filter = None,
    caller: _Filter = None,
    as_json: Json = False,
) -> None:
    """The newest events, the oldest of them first."""
    wanted = {name: value for name, value in {"action": action, "outcome": outcome, "caller": caller}.items() if value is not None}
    with _log() as log:
        events = [chained.as_json() for chained in _newest(log, wanted, count)]
    if as_json:
        print_json(events)
    else:
        columns = ("event", "moment", "service", "action", "outcome", "caller", "for", "route", "resources")
        print_table("", columns, [_cells(told["sequence"], told["event"]) for told in events])


@audit_log.command()
def export(
    out: Annotated[Path | None, typer.Option(help="File that the events are written to; standard output without it.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only events after this number.")] = 0,
) -> None:
    """All events as JSON, one a line, with their hashes."""
    with _log() as log:
        lines = (json.dumps(chained.as_json(), ensure_ascii=True) + "\n" for chained in log.read() if chained.sequence > after)
        if out is None:
            sys.stdout.writelines(lines)
            return
        with out.open("w", encoding="ascii") as file:
            file.writelines(lines)
    print_facts({"written": str(out)})


@contextmanager
def _log() -> Iterator[AuditLog]:
    """The log of the settings."""
    with closing(AuditLog.open_to_read(get_settings())) as log:
        yield log


def _newest(log: AuditLog, wanted: dict[str, str], count: int) -> Iterable[ChainedEvent]:
    """The newest events that are as wanted; all are read where something is wanted of them."""
    if not wanted:
        return reversed(log.newest(count))
    return deque((chained for chained in log.read() if _is_wanted(chained.as_json()["event"], wanted)), maxlen=count)


def _is_wanted(event: Any, wanted: dict[str, str]) -> bool:
    """Whether an event has these values; one that somebody made unreadable has none."""
    return isinstance(event, dict) and all(event.get(name) == value for name, value in wanted.items())


def _cells(sequence: int, event: Any) -> list[str]:
    """An event as cells of a table, whatever somebody made of it."""
    if not isinstance(event, dict):
        return [str(sequence), "unreadable"]
    resources = event.get("resources")
    named = " ".join(f"{name}={value}" for name, value in resources.items()) if isinstance(resources, dict) else ""
    names = ("moment", "service", "action", "outcome", "caller", "on_behalf_of", "route")
    return [str(sequence), *(str(event.get(name) or "") for name in names), named]
