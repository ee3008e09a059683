"""The trials of a search in the terminal."""

from __future__ import annotations

from typing import Any
from unittest import mock

import httpx
import pytest
from rich.console import Console

from shared.cli.search_table import _View, found_by, live_trials, mask_text, trials_table
from shared.client.replies import Operation, Trial
from tests.shared.cli.fake_services import FOUND, SEARCH, TRIALS, FakeServices


def drawn(renderable: Any) -> list[str]:
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


def trials() -> list[Trial]:
    return [Trial.model_validate(trial) for trial in TRIALS]


def test_masks_are_squares_and_ranks_are_numbers() -> None:
    assert mask_text({"mask": [1, 0, 1], "ranks": None}) == "■·■"
    assert mask_text({"mask": [1, 0, 1], "ranks": [8, 0, 2]}) == "8·2"
    assert mask_text({"mask": [1, 0, 1], "ranks": [16, 0, 2]}) == "16 · 2"


def test_table_shows_the_last_rows_that_there_is_room_for() -> None:
    search = Operation.model_validate(SEARCH)
    head, *rows = drawn(trials_table(search, trials(), rows=2))
    assert head.split() == ["trial", "state", "kind", "mask", "rate", "memorization", "fid"]
    assert [row.split()[0] for row in rows] == ["2", "3"]


def test_until_there_is_a_result_what_there_is_so_far_counts() -> None:
    running = Operation.model_validate(SEARCH | {"state": "running", "result": None, "so_far": FOUND})
    assert found_by(running) == FOUND
    assert found_by(Operation.model_validate(SEARCH | {"result": None, "so_far": None})) == {}
    first = drawn(trials_table(running, trials()))[1]
    assert first.split()[:4] == ["●", "0", "succeeded", "svdiff"]


def test_view_keeps_what_it_knew_while_nobody_answers() -> None:
    services = FakeServices()
    with services.client() as client:
        view = _View(client, "job_3")
        known = drawn(view.drawn())
        assert known[0] == "Search job_3: succeeded, 4 of 4 trials are over"
        with mock.patch.object(FakeServices, "_search", side_effect=httpx.ConnectError("gone")):
            assert drawn(view.drawn()) == known


def test_live_table_is_printed_once_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServices().client() as client, live_trials(client, "job_3"):
        pass
    assert capsys.readouterr().err.count("Search job_3") == 1
