"""The trials of a search as a table in the terminal, drawn anew while the search runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shared.cli.console import ERRORS
from shared.client import LetheClient
from shared.client.replies import Operation, Trial
from shared.errors import LetheError

REFRESHES_PER_SECOND: Final = 0.5
_FRAME: Final = 8  # lines around the rows: head, state, the shell's own
_STYLES: Final = {"running": "cyan", "pruned": "dim", "failed": "red", "cancelled": "yellow"}


def trials_table(search: Operation, trials: Sequence[Trial], *, rows: int | None = None) -> Table:
    """Number, state, parameters, mask, rate and figures of each trial; the front is marked, `rows` shows the last ones alone."""
    told = search.model_dump()
    objectives = list(told["spec"]["objectives"])
    found = found_by(search)
    front = {point["trial"] for point in found.get("pareto", [])}
    recommended = (found.get("recommended") or {}).get("trial")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "trial", "state", "kind", "mask", "rate", *objectives):
        numbers = column in {"trial", "rate", *objectives}
        table.add_column(column.replace("_", "\n"), justify="right" if numbers else "left", no_wrap=True, min_width=1)
    for trial in trials if rows is None else trials[-rows:]:
        mark = "★" if trial.number == recommended else "●" if trial.number in front else ""
        figures = [_figure(trial, name) for name in objectives]
        choice = trial.choice
        cells = (mark, str(trial.number), _state(trial), choice["kind"], mask_text(choice), f"{choice['learning_rate']:.1e}", *figures)
        table.add_row(*(escape(cell) for cell in cells), style=_STYLES.get(trial.state, "bold" if mark else ""))
    return table


def found_by(search: Operation) -> Mapping[str, Any]:
    """What a search found: its result, or what there is so far."""
    found: Mapping[str, Any] = search.result or search.model_dump().get("so_far") or {}
    return found


def mask_text(choice: Mapping[str, Any]) -> str:
    """A sign for each attention module: a square where it takes part, LoRA's rank where it has one."""
    if choice.get("ranks") is not None:
        ranks = [str(rank) if rank else "·" for rank in choice["ranks"]]
        return ("" if all(len(rank) == 1 for rank in ranks) else " ").join(ranks)
    return "".join("■" if bit else "·" for bit in choice["mask"])


@contextmanager
def live_trials(client: LetheClient, search_id: str) -> Iterator[None]:
    """The table on stderr while inside; without a terminal it is printed once, at the end."""
    view = _View(client, search_id)
    with Live(get_renderable=view.drawn, console=ERRORS, refresh_per_second=REFRESHES_PER_SECOND):
        yield


class _View:
    """Asks for the trials whenever it is drawn, and shows what it knew when nobody answers."""

    def __init__(self, client: LetheClient, search_id: str) -> None:
        self._client = client
        self._search_id = search_id
        self._last: Group | Text = Text(f"Search {search_id} is queued")

    def drawn(self) -> Group | Text:
        """The state as a line, and the table."""
        try:
            search = self._client.trainer.get_search(self._search_id)
            trials = self._client.trainer.search_trials(self._search_id)
        except LetheError:
            return self._last  # whoever waits for the search is told, and ends the view
        over = sum(trial.state != "running" for trial in trials)
        told = f"Search {search.id}: {search.state}, {over} of {search.model_dump()['spec']['trials']} trials are over"
        doing = "" if search.is_settled else f"\n{search.progress.message}"
        line = Text.assemble((told, "bold"), (doing, "dim"))
        rows = max(4, ERRORS.height - _FRAME) if ERRORS.is_terminal else None
        self._last = Group(line, trials_table(search, trials, rows=rows))
        return self._last


def _state(trial: Trial) -> str:
    """The state, with the last rung of those that were not measured at their end."""
    if trial.state in {"running", "pruned"} and trial.rungs:
        return f"{trial.state} at {trial.rungs[-1].step}"
    return trial.state


def _figure(trial: Trial, name: str) -> str:
    """What was measured at the end, or in brackets at the last rung."""
    if trial.values is not None:
        return f"{trial.values[name]['value']:.4g}"
    rung = trial.rungs[-1] if trial.rungs else None
    return f"({rung.values[name]['value']:.4g})" if rung is not None and name in rung.values else ""
