"""How the command line speaks: results on stdout, progress and errors on stderr, and exit codes that a script can use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from itertools import zip_longest
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from shared.client import (
    ForbiddenProblemError,
    InvalidRequestProblemError,
    ProblemError,
    UnauthenticatedProblemError,
    UnexpectedAnswerError,
)
from shared.client import Progress as OperationProgress
from shared.errors import InvalidRequestError, LetheError, MitigationInsufficientError, SettingsError, UnavailableError

OUT: Final = Console()
ERRORS: Final = Console(stderr=True)

_SEPARATOR: Final = 3  # columns between two of a table
_PROSE: Final = 24  # narrower than this, prose is hard to read


class ExitCode(IntEnum):
    """What the command line ends with."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


def exit_code_of(error: LetheError) -> ExitCode:
    """What an error means to a script."""
    if isinstance(error, UnavailableError | UnexpectedAnswerError):
        return ExitCode.UNREACHABLE
    if isinstance(error, MitigationInsufficientError | ForbiddenProblemError | UnauthenticatedProblemError):
        return ExitCode.REFUSED
    if isinstance(error, InvalidRequestProblemError):
        # A job that found its source unusable failed; a request against the schema was wrongly asked.
        return ExitCode.USAGE
    return ExitCode.USAGE if isinstance(error, InvalidRequestError | SettingsError) else ExitCode.FAILURE


def print_error(error: LetheError) -> None:
    """Say what went wrong, where, and where to look."""
    _print_sentence(str(error))
    if isinstance(error, UnauthenticatedProblemError):
        ERRORS.print("  The key that is shown is LETHE_API_KEY's; 'lethe key create' makes one.", highlight=False, soft_wrap=True)
    if isinstance(error, ProblemError):
        for field in (told for told in error.fields if str(error) not in told):
            ERRORS.print(f"  {escape(field)}", highlight=False)
        if error.trace_id:
            ERRORS.print(f"  [dim]trace {escape(error.trace_id)}[/]", highlight=False)


def print_file_error(error: OSError) -> None:
    """Say which file or folder cannot be used, and why."""
    place = "" if error.filename is None else f"{error.filename}: "
    _print_sentence(f"{place}{error.strerror or type(error).__name__}.")


def _print_sentence(sentence: str) -> None:
    """One line, however long, so that places in it can be copied."""
    ERRORS.print(f"[bold red]Error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for programs."""
    OUT.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A result for people, whose words are never cut: what is too wide for a terminal folds one column of prose, or is stacked.

    Without a terminal each row stays one line, however wide, for whatever reads it.
    """
    widths = [max(map(cell_len, column)) for column in zip_longest(columns, *rows, fillvalue="")]
    folded = None
    if OUT.is_terminal and _total(widths) > OUT.width:
        folded = _prose(rows, widths, too_much=_total(widths) - OUT.width)
        if folded is None:
            _print_stacked(title, columns, rows)
            return
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number != folded)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # Without a terminal the usual console believes in 80 columns.
    out = OUT if OUT.is_terminal else Console(file=OUT.file, width=max(_total(widths), cell_len(title)))
    out.print(table)


def _total(widths: Sequence[int]) -> int:
    """How wide a table of such columns is."""
    return sum(widths) + _SEPARATOR * (len(widths) - 1)


def _prose(rows: Sequence[Sequence[str]], widths: Sequence[int], *, too_much: int) -> int | None:
    """The one column that can be made so much narrower without cutting a word, if there is one."""
    for number, width in enumerate(widths):
        words = [word for row in rows for word in (row[number].split() if number < len(row) else ())]
        if width - too_much >= max([_PROSE, *map(cell_len, words)]):
            return number
    return None


def _print_stacked(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row as a paragraph: what its first column says, and below as many names with their values in a line as there is room for."""
    if title:
        OUT.print(f"[bold]{escape(title)}[/]", highlight=False)
    for row in rows:
        OUT.print(f"[bold]{escape(columns[0])} {escape(row[0])}[/]", highlight=False, soft_wrap=True)
        line = ""
        for name, value in zip(columns[1:], row[1:], strict=False):
            if not value:
                continue
            told = f"{name}: {value}"
            if line and cell_len(line) + cell_len(told) + 4 > OUT.width:
                OUT.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
                line = ""
            line = f"{line}  {told}" if line else told
        if line:
            OUT.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one a line and never broken, so that places can be copied."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        OUT.print(f"[bold]{escape(name):<{width}}[/]  {escape(value)}", highlight=False, soft_wrap=True)


class Bars:
    """Progress bars, one line a phase; each keeps its time when it is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def add(self, name: str, total: int | None = None) -> Bar:
        """A new line."""
        return Bar(self._progress, self._progress.add_task(name, total=total, message=""))


class Bar:
    """One line of progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1, message: str = "") -> None:
        """So many steps more."""
        self._progress.update(self._task, advance=steps, message=message)

    def follow(self, reported: OperationProgress) -> None:
        """Take over what an operation reports."""
        loss = reported.values.get("loss")
        told = f"{reported.message}, loss {loss:.3f}" if isinstance(loss, int | float) else reported.message
        self._progress.update(self._task, completed=reported.step, total=reported.total or None, message=told)

    def finish(self, message: str = "") -> None:
        """Fill the line."""
        task = next(task for task in self._progress.tasks if task.id == self._task)
        total = task.total or task.completed or 1
        self._progress.update(self._task, total=total, completed=total, message=message)
        self._progress.stop_task(self._task)
        if self._progress.disable:
            self._progress.console.print(
                f"✓ {task.description} ({task.elapsed or 0:.0f} s) {message}", markup=False, highlight=False, soft_wrap=True
            )


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Bars on stderr while inside."""
    steady = Column(no_wrap=True)
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}", table_column=steady),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=steady),
        TimeElapsedColumn(table_column=steady),
        TimeRemainingColumn(compact=True, table_column=steady),
        TextColumn("[dim]{task.fields[message]}[/]", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    # Without a terminal, as in a pipeline, each phase is one line once it is over.
    with Progress(*columns, console=ERRORS, expand=True, disable=not ERRORS.is_terminal) as progress:
        yield Bars(progress)
