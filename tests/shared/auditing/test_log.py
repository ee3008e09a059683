"""Events are appended one after the other, by however many, and read in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from shared.auditing import AuditLog
from shared.auditing.chain import GENESIS
from shared.auditing.log import BrokenLogError
from shared.database import Database
from shared.errors import NotFoundError, UnavailableError
from shared.settings import Settings
from tests.shared.auditing.conftest import OpenLog, make_event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.postgres import PostgresServer

WRITERS = 4
EVENTS_EACH = 25


def test_events_are_chained_in_the_order_of_their_writing(log: AuditLog) -> None:
    assert log.head() is None
    log.append([make_event(caller="a"), make_event(caller="b")])
    log.append([make_event(caller="c")])
    read = list(log.read())
    assert [(event.sequence, event.as_json()["event"]["caller"]) for event in read] == [(1, "a"), (2, "b"), (3, "c")]
    assert [event.previous for event in read] == [GENESIS, read[0].hash, read[1].hash]
    assert all(map(log.chain.is_genuine, read))
    assert log.head() == read[-1]
    assert log.newest(2) == [read[2], read[1]]


def test_long_log_is_read_page_by_page(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.auditing.log._PAGE", 3)
    log.append([make_event(images=number) for number in range(7)])
    assert [event.as_json()["event"]["images"] for event in log.read()] == list(range(7))


def test_event_within_a_transaction_is_there_with_it_or_not_at_all(log: AuditLog, log_url: str) -> None:
    database = Database(log_url)
    with database.writing() as connection:
        log.append_within(connection, [make_event()])
        connection.rollback()
    assert log.head() is None
    with database.writing() as connection:
        log.append_within(connection, [make_event()])
    assert [event.sequence for event in log.read()] == [1]
    database.close()


def write_by_many(open_log: OpenLog, url: str) -> None:
    """Several services append at the same time; the chain must have no gap, no fork and every event once."""

    def write(name: str) -> None:
        log = open_log(url)
        for number in range(EVENTS_EACH):
            log.append([make_event(caller=name, images=number)])

    log = open_log(url)
    threads = [threading.Thread(target=write, args=(f"writer-{number}",)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = list(log.read())
    assert [event.sequence for event in read] == list(range(1, WRITERS * EVENTS_EACH + 1))
    assert [event.previous for event in read] == [GENESIS, *(event.hash for event in read[:-1])]
    contents = [json.loads(event.content) for event in read]
    for name in {content["caller"] for content in contents}:
        assert [content["images"] for content in contents if content["caller"] == name] == list(range(EVENTS_EACH))


def test_many_writers_on_sqlite_make_one_chain(open_log: OpenLog, log_url: str) -> None:
    write_by_many(open_log, log_url)


@pytest.mark.server
def test_many_writers_on_postgresql_make_one_chain(open_log: OpenLog, postgres_server: PostgresServer) -> None:
    write_by_many(open_log, postgres_server.new_database())


def test_reading_without_the_key_is_refused_and_makes_none(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(NotFoundError, match="LETHE_KEYS"):
        AuditLog.open_to_read(settings)
    assert list(tmp_path.iterdir()) == []
    written = AuditLog.open(settings)
    written.append([make_event()])
    read = AuditLog.open_to_read(settings)
    assert [read.chain.is_genuine(event) for event in read.read()] == [True]
    written.close()
    read.close()


def test_database_that_is_away_is_told(tmp_path: Path) -> None:
    log = AuditLog(Database(f"sqlite:///{tmp_path}"), key=bytes(32))  # a folder is no database
    with pytest.raises(UnavailableError):
        log.append([make_event()])
    with pytest.raises(UnavailableError):
        log.check()
    log.close()


def test_nothing_is_appended_to_an_event_that_is_not_genuine(log: AuditLog, log_url: str) -> None:
    log.append([make_event()])
    with_other_key = AuditLog(Database(log_url), key=bytes(32))
    for refused in (lambda: with_other_key.append([make_event()]), with_other_key.check):
        with pytest.raises(BrokenLogError, match="audit-log verify"):
            refused()
    with_other_key.close()
    assert REGISTRY.get_sample_value("lethe_audit_broken") == 1
    log.append([make_event()])
    assert REGISTRY.get_sample_value("lethe_audit_broken") == 0
    assert [(event.sequence, log.chain.is_genuine(event)) for event in log.read()] == [(1, True), (2, True)]


def test_row_that_somebody_inserted_stops_the_log_instead_of_being_built_upon(log: AuditLog, tamper: Callable[..., None]) -> None:
    log.append([make_event()])
    tamper("INSERT INTO audit_events VALUES (2, '{}', 'a', 'b')")
    with pytest.raises(BrokenLogError):
        log.append([make_event()])
    assert [event.sequence for event in log.read()] == [1, 2]


def test_no_key_is_made_for_a_log_that_has_events(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    written = AuditLog.open(settings)
    written.append([make_event()])
    written.close()
    elsewhere = settings.model_copy(update={"keys": tmp_path / "elsewhere"})
    with pytest.raises(BrokenLogError, match="LETHE_KEYS"):
        AuditLog.open(elsewhere)
    assert not (tmp_path / "elsewhere").exists()


def test_key_is_made_before_a_database_answers(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    AuditLog.of(settings, Database(f"sqlite:///{tmp_path}")).close()
    assert (settings.keys_folder / "audit-log.key").exists()
