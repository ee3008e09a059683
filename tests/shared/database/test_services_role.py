"""The services' role on a real PostgreSQL: made or found, made equal again, and able to do what services do and nothing more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, event, insert, inspect, make_url, text

from shared.auditing.events import AuditEvent
from shared.auditing.log import AuditLog
from shared.database import Database, grant_services, services_role
from shared.errors import InvalidRequestError, UnavailableError
from shared.http.migrations import SCHEMAS, migrate, reasons_to_migrate
from shared.jobs.records import JobStore

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

PASSWORD = "open sesame"
REFUSED = "refuses its role a right"


def url_of(owner: Database, name: str, password: str = PASSWORD) -> str:
    """The owner's URL as somebody else's."""
    return owner.engine.url.set(username=name, password=password).render_as_string(hide_password=False)


def fresh_name() -> str:
    """A name that no other test has given to a role, with what has to be quoted."""
    return f'lethe "%{secrets.token_hex(4)}'


def execute(database: Database, statement: str) -> None:
    with database.writing() as connection:
        connection.execute(text(statement))


@pytest.fixture
def owner(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database with all tables, as an installation of before has them."""
    with closing(Database(postgres_server.new_database())) as database:
        migrate(database)
        yield database


@pytest.fixture
def services(owner: Database) -> Iterator[Database]:
    """The same database as services reach it."""
    url = url_of(owner, fresh_name())
    assert grant_services(owner, services_role(url, owner=owner))["role"] == "made"
    with closing(Database(url)) as database:
        yield database


@pytest.mark.server
def test_services_do_their_work(services: Database) -> None:
    assert reasons_to_migrate(services) == []
    with closing(JobStore(services.engine.url.render_as_string(hide_password=False))) as jobs:
        jobs.create(job_id="job_1", kind="dataset", spec={})
        claimed = jobs.claim(kinds=["dataset"], owner="test")
        assert claimed is not None
        assert jobs.succeed(job_id="job_1", attempt=claimed.attempt, result={})
    log = AuditLog(services, key=bytes(32))
    log.append([an_event()])
    assert log.head() is not None


def an_event() -> AuditEvent:
    return AuditEvent(
        moment=datetime.now(UTC),
        service="cli",
        action="admin",
        outcome="done",
        caller="test",
        caller_kind="operator",
        route="test",
        resources={},
        trace_id="",
    )


@pytest.mark.server
@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE jobs",
        "ALTER TABLE jobs ADD COLUMN more integer",
        "TRUNCATE jobs",
        "CREATE TABLE more (id integer)",
        "CREATE ROLE friend",
        "UPDATE audit_events SET content = ''",
        "DELETE FROM audit_events",
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
        "COPY jobs TO PROGRAM 'true'",
        *(str(delete(schema.versions)) for schema in SCHEMAS),
        *(str(insert(schema.versions).values(version=text("99"))) for schema in SCHEMAS),
    ],
)
def test_services_change_no_table_and_no_event(services: Database, statement: str) -> None:
    with pytest.raises(UnavailableError, match=REFUSED):
        execute(services, statement)


@pytest.mark.server
def test_rights_are_given_anew_and_the_password_is_the_one_of_the_url(owner: Database, services: Database) -> None:
    name = str(services.engine.url.username)
    role = services.engine.dialect.identifier_preparer.quote(name).replace("%%", "%")
    with owner.writing() as connection:
        connection.exec_driver_sql(f"GRANT ALL ON audit_events TO {role}".replace("%", "%%"))
        connection.exec_driver_sql(f"REVOKE ALL ON jobs FROM {role}".replace("%", "%%"))
    other = url_of(owner, name, "another/word:1%")
    assert grant_services(owner, services_role(other, owner=owner)) == {
        "role": "was there",
        "password": "set",
        "rights": "reads and writes rows",
    }
    with closing(Database(other)) as database:
        execute(database, "DELETE FROM jobs")
        with pytest.raises(UnavailableError, match=REFUSED):
            execute(database, "DELETE FROM audit_events")
    services.engine.dispose()
    with pytest.raises(UnavailableError, match="does not answer"):
        services.ping()


@pytest.mark.server
def test_table_of_a_later_migration_is_open_to_services_at_once(owner: Database, services: Database) -> None:
    execute(owner, "CREATE TABLE later (id bigserial, name text)")
    execute(services, "INSERT INTO later (name) VALUES ('a')")


@pytest.mark.server
def test_password_is_never_told_to_the_server(owner: Database) -> None:
    role = services_role(url_of(owner, fresh_name(), "a password to look for"), owner=owner)
    sent: list[str] = []
    event.listen(owner.engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    grant_services(owner, role)
    assert [statement for statement in sent if "SCRAM-SHA-256$" in statement]
    assert [statement for statement in sent if "a password to look for" in statement] == []
    assert "a password" not in repr(role)


@pytest.mark.server
def test_owner_who_makes_no_roles_grants_to_the_one_that_was_made(owner: Database) -> None:
    plain, role = (f"lethe_{secrets.token_hex(4)}" for _ in range(2))
    execute(owner, f"CREATE ROLE {plain} LOGIN PASSWORD 'plain'")
    execute(owner, f"CREATE ROLE {role} LOGIN PASSWORD 'given'")
    execute(owner, f'ALTER DATABASE "{owner.engine.url.database}" OWNER TO {plain}')
    for table in inspect(owner.engine).get_table_names():
        execute(owner, f"ALTER TABLE {table} OWNER TO {plain}")
    with closing(Database(url_of(owner, plain, "plain"))) as unprivileged:
        told = grant_services(unprivileged, services_role(url_of(owner, role, "another"), owner=unprivileged))
        assert told["password"] == "left to who may make roles"
        with pytest.raises(UnavailableError, match=REFUSED):
            grant_services(unprivileged, services_role(url_of(owner, fresh_name()), owner=unprivileged))
    with closing(Database(url_of(owner, role, "given"))) as services:
        assert reasons_to_migrate(services) == []
        with pytest.raises(UnavailableError, match=REFUSED):
            execute(services, "UPDATE audit_events SET content = ''")


@pytest.mark.server
@pytest.mark.parametrize("options", ["SUPERUSER", "CREATEROLE", "IN ROLE lethe", "IN ROLE administrators"])
def test_role_that_could_become_the_owner_is_refused(owner: Database, options: str) -> None:
    name = f"mighty_{secrets.token_hex(4)}"
    execute(owner, f"CREATE ROLE administrators_{name} SUPERUSER")
    options = options.replace("administrators", f"administrators_{name}")
    execute(owner, f"CREATE ROLE {name} LOGIN {options}")
    with pytest.raises(InvalidRequestError, match="name another role"):
        grant_services(owner, services_role(url_of(owner, name), owner=owner))


@pytest.mark.server
def test_url_of_the_owner_or_of_another_database_is_refused(owner: Database) -> None:
    with pytest.raises(InvalidRequestError, match="name another role"):
        grant_services(owner, services_role(url_of(owner, "lethe"), owner=owner))
    elsewhere = make_url(url_of(owner, "lethe_service")).set(database="elsewhere").render_as_string(hide_password=False)
    with pytest.raises(InvalidRequestError, match="must name a role, and the database"):
        services_role(elsewhere, owner=owner)


def test_sqlite_has_no_roles() -> None:
    with closing(Database("sqlite://")) as database, pytest.raises(InvalidRequestError, match="SQLite has no roles"):
        services_role("postgresql://lethe_service:x@database/lethe", owner=database)
    with closing(Database("sqlite://")) as database, pytest.raises(ValueError, match="LETHE_SERVICES_DATABASE_URL cannot be read"):
        services_role("lethe_service", owner=database)
