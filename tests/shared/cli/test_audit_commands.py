"""lethe audit-log: whole or broken, listed, exported."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from shared.auditing import Anchors, AuditLog
from shared.database import Database
from shared.settings import Settings, get_settings
from tests.shared.auditing.conftest import make_event

if TYPE_CHECKING:
    from tests.shared.cli.conftest import Lethe


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of the test's own."""
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def written(settings: Settings) -> None:
    """Six events and an anchor."""
    with closing(AuditLog.open(settings)) as log, closing(Anchors.open(settings)) as anchors:
        actions = ("generate", "train", "generate", "score", "admin", "generate")
        log.append([make_event(action=action, caller=f"ward-{number % 2}") for number, action in enumerate(actions)])
        head = log.head()
        assert head is not None
        anchors.write(head)


def tamper(settings: Settings, *statements: str) -> None:
    with closing(Database.open(settings)) as database, database.writing() as connection:
        for statement in ("DROP TRIGGER audit_events_no_update", "DROP TRIGGER audit_events_no_delete", *statements):
            connection.execute(text(statement))


@pytest.mark.usefixtures("written")
def test_whole_log_verifies(lethe: Lethe) -> None:
    assert lethe("audit-log", "verify", "--json") == 0
    assert json.loads(lethe.out) == {"events": 6, "anchors": 1, "findings": []}
    assert lethe("audit-log", "verify") == 0
    assert "whole" in lethe.out


@pytest.mark.usefixtures("written")
def test_broken_log_is_told_with_its_places_and_exit_code_1(lethe: Lethe, settings: Settings) -> None:
    tamper(settings, "DELETE FROM audit_events WHERE sequence IN (2, 6)", "UPDATE audit_events SET content = '{}' WHERE sequence = 4")
    assert lethe("audit-log", "verify", "--json") == 1
    assert [finding["sequence"] for finding in json.loads(lethe.out)["findings"]] == [2, 4, 6]
    assert lethe("audit-log", "verify") == 1
    assert "event 2 is missing" in lethe.out
    assert "event 4 was altered" in lethe.out
    assert lethe("audit-log", "list") == 0
    assert "broken" not in lethe.out


@pytest.mark.usefixtures("written")
def test_newest_events_are_listed_by_what_is_wanted(lethe: Lethe, settings: Settings) -> None:
    assert lethe("audit-log", "list", "--count", "2", "--json") == 0
    assert [event["sequence"] for event in json.loads(lethe.out)] == [5, 6]
    assert lethe("audit-log", "list", "--action", "generate", "--caller", "ward-0", "--json") == 0
    assert [event["sequence"] for event in json.loads(lethe.out)] == [1, 3]
    tamper(settings, "UPDATE audit_events SET content = '{torn' WHERE sequence = 6")
    assert lethe("audit-log", "list", "--count", "2") == 0
    assert "unreadable" in lethe.out
    assert lethe("audit-log", "list", "--outcome", "done", "--json") == 0
    assert len(json.loads(lethe.out)) == 5


@pytest.mark.usefixtures("written")
def test_list_can_be_read_on_a_narrow_terminal_and_piped(lethe: Lethe, settings: Settings) -> None:
    tamper(settings, "UPDATE audit_events SET content = '{torn' WHERE sequence = 6")
    assert lethe("audit-log", "list") == 0
    assert len(lethe.out.splitlines()) == 2 + 6
    lethe.on_a_terminal(80)
    assert lethe("audit-log", "list", "--count", "2") == 0
    lines = lethe.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["event 5", "event 6"]
    assert max(map(len, lines)) <= 80
    assert "caller: ward-0" in lethe.out
    assert lines[-1] == "  moment: unreadable"


@pytest.mark.usefixtures("written")
def test_events_are_exported_one_a_line(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("audit-log", "export") == 0
    lines = [json.loads(line) for line in lethe.out.splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert lethe("audit-log", "export", "--after", "4", "--out", str(tmp_path / "events.jsonl")) == 0
    assert [json.loads(line)["sequence"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [5, 6]


def test_log_whose_key_is_elsewhere_is_not_judged(lethe: Lethe, settings: Settings) -> None:
    assert lethe("audit-log", "verify") == 1
    assert "LETHE_KEYS" in lethe.err
    assert not settings.home.exists()
