"""The role of services in PostgreSQL: made by the owner of the tables, to read and write rows and nothing else (services_role.sql)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from psycopg import sql
from sqlalchemy import Connection, text

from shared.database.engine import Database, read_url
from shared.database.schema import take_turns
from shared.errors import InvalidRequestError

RIGHTS: Final = Path(__file__).with_name("services_role.sql")
# The role that the file names; the one at hand takes its place.
_NAMED: Final = "lethe_service"
# Who is, or may become, the owner or an administrator could grant itself everything back.
_IS_TOO_MIGHTY: Final = text(
    "SELECT EXISTS (SELECT FROM pg_roles mighty WHERE (mighty.rolsuper OR mighty.rolcreaterole OR mighty.rolname = current_user)"
    " AND pg_has_role(named.oid, mighty.oid, 'MEMBER')) FROM pg_roles named WHERE named.rolname = :name"
)
_MAY_MAKE_ROLES: Final = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")


@dataclass(frozen=True, slots=True)
class ServicesRole:
    """Who services are to the database."""

    name: str
    password: str | None = field(repr=False)


def services_role(url: str, *, owner: Database) -> ServicesRole:
    """The role in the URL that services are given; InvalidRequestError where it leads elsewhere than the owner's."""
    place, home = read_url(url, "LETHE_SERVICES_DATABASE_URL"), owner.engine.url
    if owner.engine.dialect.name != "postgresql" or place.get_backend_name() != "postgresql":
        raise InvalidRequestError("LETHE_SERVICES_DATABASE_URL and LETHE_DATABASE_URL must both name PostgreSQL; SQLite has no roles.")
    if place.username is None or place.database != home.database:
        raise InvalidRequestError(f"LETHE_SERVICES_DATABASE_URL must name a role, and the database {home.database!r}.")
    return ServicesRole(place.username, place.password)


def grant_services(owner: Database, role: ServicesRole) -> dict[str, str]:
    """Make the role unless it is there, and give it its rights anew; answers what became of each. Safe to repeat, and from several places.

    InvalidRequestError where the role owns the tables or could come to own them.
    """
    with owner.writing() as connection:
        take_turns(connection)
        is_there = _find(connection, role)
        if not is_there:
            connection.exec_driver_sql(_quoted("CREATE ROLE {} LOGIN", sql.Identifier(role.name)))
        told = {"role": "was there" if is_there else "made", "password": _set_password(connection, role)}
        connection.exec_driver_sql(RIGHTS.read_text(encoding="utf-8").replace(_NAMED, _quoted("{}", sql.Identifier(role.name))))
    return told | {"rights": "reads and writes rows"}


def require_lesser(owner: Database, role: ServicesRole) -> None:
    """InvalidRequestError where the role may not be the services', to be told before anything is changed."""
    with owner.reading() as connection:
        _find(connection, role)


def _find(connection: Connection, role: ServicesRole) -> bool:
    """Whether the role is there; InvalidRequestError where it owns the tables or could come to own them."""
    is_too_mighty = connection.scalar(_IS_TOO_MIGHTY, {"name": role.name})
    if is_too_mighty:
        raise InvalidRequestError(
            f"LETHE_SERVICES_DATABASE_URL names {role.name!r}, who owns the tables or may make itself their owner; name another role."
        )
    return is_too_mighty is not None


def _set_password(connection: Connection, role: ServicesRole) -> str:
    """Give the role the password of its URL, where there is one and the owner may; what is sent and logged is no password but its proof."""
    if role.password is None:
        return "none in its URL"
    if not connection.scalar(_MAY_MAKE_ROLES):
        return "left to who may make roles"
    driver: Any = connection.connection.driver_connection
    proof = driver.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256").decode("ascii")
    connection.exec_driver_sql(_quoted("ALTER ROLE {} PASSWORD {}", sql.Identifier(role.name), sql.Literal(proof)))
    return "set"


def _quoted(statement: str, *parts: sql.Composable) -> str:
    """A statement with names and values in their quotes; the driver takes a lone percent sign for a parameter."""
    return sql.SQL(statement).format(*parts).as_string(None).replace("%", "%%")
