"""A server that is frozen is given up and believed again, and a migration has all the time that it needs."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import OperationalError

from shared.database import Database, Schema, prepare_schema
from shared.database.silence import BoundedConnection
from shared.errors import UnavailableError
from tests.servers.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.server
PATIENCE_SECONDS = 1.5


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience of a moment."""
    monkeypatch.setattr(BoundedConnection, "answer_seconds", PATIENCE_SECONDS)


@pytest.mark.usefixtures("hurried")
def test_frozen_server_is_unavailable_and_believed_again_once_it_moves(postgres_server: PostgresServer) -> None:
    place = make_url(postgres_server.new_database())
    assert place.port is not None
    with FaultProxy(place.port) as proxy, closing(Database(place.set(port=proxy.port).render_as_string(hide_password=False))) as database:
        database.ping()
        with pytest.raises(UnavailableError, match="does not answer"), database.writing() as connection:
            freeze_and_ask(proxy, connection)
        with pytest.raises(UnavailableError, match="does not answer"):
            database.ping()
        proxy.thaw()
        database.ping()


def freeze_and_ask(proxy: FaultProxy, connection: Connection) -> None:
    """Ask something that is never answered."""
    proxy.freeze()
    connection.execute(text("SELECT 1"))


def test_error_that_the_server_answers_costs_no_connection(postgres_server: PostgresServer) -> None:
    refused = text("DO $$ BEGIN RAISE EXCEPTION 'no lock' USING ERRCODE = '55P03'; END $$")
    with closing(Database(postgres_server.new_database())) as database, database.engine.connect() as connection:
        first = connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(OperationalError, match="no lock"):
            connection.execute(refused)
        connection.rollback()
        assert connection.scalar(text("SELECT pg_backend_pid()")) == first


@pytest.mark.usefixtures("hurried")
def test_migration_takes_its_time(postgres_server: PostgresServer) -> None:
    with closing(Database(postgres_server.new_database())) as database:
        prepare_schema(database.engine, Schema("slow", (take_long,)))
        with pytest.raises(UnavailableError), database.writing() as connection:
            take_long(connection)


def take_long(connection: Connection) -> None:
    """Longer than patience lasts here."""
    connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 2 * PATIENCE_SECONDS})
