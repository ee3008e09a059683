"""The database: spoken to in one way, patient for a while, and silent about values and passwords."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path
from select import select as ready_to_read
from traceback import format_exception
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select, text
from sqlalchemy.exc import IntegrityError

from shared.database import Database, open_engine, writing
from shared.errors import UnavailableError
from shared.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from tests.servers.postgres import PostgresServer

WORDS = Table("words", MetaData(), Column("id", Integer, primary_key=True), Column("text", String(64)))


def test_what_a_transaction_wrote_is_read_back_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    database = Database.open(Settings(home=tmp_path))
    database.ping()
    WORDS.create(database.engine)
    with database.writing() as connection:
        connection.execute(insert(WORDS).values(id=1, text="kept"))
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(insert(WORDS), [{"id": 2, "text": "dropped"}, {"id": 1, "text": "taken"}])
    with database.reading() as connection:
        assert connection.execute(select(WORDS.c.text)).scalars().all() == ["kept"]
    database.close()


def test_database_that_does_not_answer_is_unavailable(free_tcp_port: int) -> None:
    database = Database(f"postgresql://lethe:open-sesame@127.0.0.1:{free_tcp_port}/lethe")
    with pytest.raises(UnavailableError, match="database does not answer") as caught:
        database.ping()
    assert "open-sesame" not in str(caught.value)
    database.close()


@pytest.mark.parametrize(
    "url", ["postgres://u:open-sesame@h/d", "postgresql://u:open-sesame@h/d", "postgresql+psycopg://u:open-sesame@h/d"]
)
def test_every_spelling_of_postgresql_is_spoken_with_psycopg(url: str) -> None:
    engine = open_engine(url)
    assert engine.url.drivername == "postgresql+psycopg"
    assert "open-sesame" not in repr(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:open-sesame@h/d", "names 'mysql'"),
        ("postgresql//u:open-sesame@h/d", "cannot be read"),
        ("postgresql://u:open-sesame@h:port/d", "cannot be read"),
    ],
)
def test_url_that_cannot_be_used_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"LETHE_DATABASE_URL {message}") as caught:
        open_engine(url)
    assert "open-sesame" not in "".join(format_exception(caught.value))


def test_statement_errors_hide_their_values(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'lethe.db'}")
    WORDS.create(engine)
    with pytest.raises(IntegrityError) as caught, writing(engine).begin() as connection:
        connection.execute(insert(WORDS), [{"id": 1, "text": "canary-prompt"}, {"id": 1, "text": "canary-prompt"}])
    assert "canary-prompt" not in str(caught.value)
    engine.dispose()


@pytest.mark.server
def test_missing_tables_and_rights_are_told_with_what_to_do(postgres_server: PostgresServer) -> None:
    with closing(Database(postgres_server.new_database())) as database:
        with pytest.raises(UnavailableError, match="run 'lethe migrate'"), database.reading() as connection:
            connection.execute(select(WORDS.c.text))
        with database.writing() as connection:
            WORDS.create(connection)
            connection.execute(text("CREATE ROLE stranger"))
        with pytest.raises(UnavailableError, match="refuses its role a right"), database.reading() as connection:
            connection.execute(text("SET LOCAL ROLE stranger; SELECT text FROM words"))


@pytest.mark.server
def test_database_that_takes_no_writes_is_unavailable_and_read_on(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    with closing(Database(url)) as database, database.writing() as connection:
        WORDS.create(connection)
    with closing(Database(f"{url}?options=-c%20default_transaction_read_only%3Don")) as standby:
        with pytest.raises(UnavailableError, match="takes no writes now"), standby.writing() as connection:
            connection.execute(insert(WORDS).values(id=1, text="lost"))
        with standby.reading() as connection:
            assert connection.execute(select(WORDS.c.text)).all() == []
        with pytest.raises(UnavailableError, match="takes no writes now"):
            standby.check_writes()
    with closing(Database(url)) as database:
        database.check_writes()


@pytest.mark.server
def test_transaction_sees_what_was_committed_while_it_waited_whatever_the_server_prefers(postgres_server: PostgresServer) -> None:
    url = f"{postgres_server.new_database()}?options=-c%20default_transaction_isolation%3Dserializable"
    with closing(Database(url)) as database:
        with database.writing() as connection:
            WORDS.create(connection)
        with database.reading() as waiting:
            assert waiting.execute(select(WORDS.c.text)).all() == []
            with database.writing() as holding:
                holding.execute(insert(WORDS).values(id=1, text="kept"))
            assert waiting.execute(select(WORDS.c.text)).scalars().all() == ["kept"]


@pytest.mark.server
def test_transaction_that_the_server_ended_is_unavailable(postgres_server: PostgresServer) -> None:
    with closing(Database(postgres_server.new_database())) as database:
        with pytest.raises(UnavailableError, match="does not answer"), database.writing() as connection:
            outlive(connection)
        database.ping()


@pytest.mark.server
def test_server_that_dies_while_it_is_waited_for_is_missed_within_seconds(postgres_server: PostgresServer) -> None:
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    with (
        closing(Database(postgres_server.new_database())) as database,
        database.reading() as connection,
        socket.socket(fileno=os.dup(descriptor_of(connection))) as peer,
    ):
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (peer.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    assert idle + interval * count <= 15


def outlive(connection: Connection) -> None:
    """Begin, wait until the server has ended the transaction, and go on."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
    assert ready_to_read([descriptor_of(connection)], [], [], 60)[0]
    connection.execute(text("SELECT 1"))


def descriptor_of(connection: Connection) -> int:
    """The socket of a connection to PostgreSQL."""
    return cast("psycopg.Connection", connection.connection.driver_connection).fileno()
