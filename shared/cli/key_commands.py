"""The commands about API keys, for an operator: they work on the database of the settings, and no service needs to run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from shared.access import EVERY_SCOPE, Scope
from shared.access.key_records import IssuedKey, KeyRecord, KeyRecords, KeyWitness, Secret
from shared.auditing import Anchors, AuditLog, record_administration
from shared.cli.console import ERRORS, print_facts, print_json, print_table
from shared.database import Database
from shared.errors import InvalidRequestError, LetheError, UnauthenticatedError
from shared.http.migrations import migrate_embedded
from shared.http.operations import rfc3339
from shared.settings import get_settings

key = typer.Typer(help="Make, show, rotate and revoke API keys in the database of the settings.", no_args_is_help=True)

_MAX_DAYS: Final = 3650

KeyId = Annotated[str, typer.Argument(help="A key's id (key_…).")]
Days = Annotated[int, typer.Option(min=0, max=_MAX_DAYS, help="Days until it expires; 0 for never.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Into = Annotated[
    Path | None,
    typer.Option(
        help="Write the key into this file, for its owner only, instead of printing it; one that holds a valid key is left alone."
    ),
]


@key.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for people: who holds the key, and what for.")],
    scope: Annotated[list[str], typer.Option(help=f"What the key may do, again for more: {', '.join(sorted(EVERY_SCOPE))}.")],
    service: Annotated[bool, typer.Option("--service", help="For a service of Lethe, which says for whom it works.")] = False,
    days: Days = 90,
    into: Into = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    with _changes() as records:
        if into is not None and _holds_valid_key(into, records):
            print_facts({"file": f"{into} holds a valid key already"})
            return
        scopes = cast("list[Scope]", scope)  # checked by what is called
        issued = records.create(name=name, scopes=scopes, kind="service" if service else "key", lifetime=_lifetime(days))
        _hand_over(issued, into, as_json=as_json)


@key.command("list")
def list_keys(as_json: Json = False) -> None:
    """All keys with their secrets' public prefixes; the secrets themselves are not kept anywhere."""
    with _records() as records:
        found = records.list()
    if as_json:
        print_json([_told(record) for record in found])
        return
    columns = ("id", "name", "scopes", "prefix", "expires", "last used", "state")
    now = datetime.now(UTC)
    print_table("", columns, [_cells(record, secret, now) for record in found for secret in record.secrets])


@key.command()
def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[int, typer.Option(min=0, max=24 * 90, help="Hours that the secrets before it stay valid.")] = 24,
    days: Days = 90,
    into: Annotated[Path | None, typer.Option(help="Write the key into this file, for its owner only, instead of printing it.")] = None,
    as_json: Json = False,
) -> None:
    """Make another secret for a key, which stays the same caller, and show it, this once."""
    with _changes() as records:
        issued = records.rotate(key_id, lifetime=_lifetime(days), overlap=timedelta(hours=overlap_hours))
        _hand_over(issued, into, as_json=as_json)


@key.command()
def revoke(key_id: KeyId) -> None:
    """End a key with all its secrets; services may take ten seconds to know. Again is harmless."""
    with _changes() as records:
        records.revoke(key_id)
    print_facts({"revoked": key_id})


@contextmanager
def _changes() -> Iterator[KeyRecords]:
    """The same for who changes them: at the end the log is anchored, by a service where the store does not answer now."""
    with _records() as records:
        yield records
    settings = get_settings()
    try:
        with closing(AuditLog.open_to_read(settings)) as log, closing(Anchors.open(settings)) as anchors:
            head = log.head()
            if head is not None:
                anchors.write(head)
    except (LetheError, ValueError) as error:
        ERRORS.print(f"The audit log was not anchored: {error}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _records() -> Iterator[KeyRecords]:
    """The keys of the settings' database, each change of which the audit log tells."""
    settings = get_settings()
    with closing(Database.open(settings)) as database:
        migrate_embedded(database)
        yield KeyRecords.of(settings, database, witness=_told_to(AuditLog.of(settings, database)))


def _told_to(log: AuditLog) -> KeyWitness:
    """A witness that writes into the audit log."""
    return lambda connection, verb, key_id: record_administration(log, connection, command=f"lethe key {verb}", resources={"key": key_id})


def _lifetime(days: int) -> timedelta | None:
    """The days until a key expires."""
    return timedelta(days=days) if days else None


def _holds_valid_key(path: Path, records: KeyRecords) -> bool:
    """Whether a file holds a key that opens; bootstraps may therefore be repeated."""
    if not path.exists():
        return False
    try:
        records.caller_of(path.read_text(encoding="utf-8").strip())
    except (UnauthenticatedError, UnicodeDecodeError):
        return False
    return True


def _hand_over(issued: IssuedKey, into: Path | None, *, as_json: bool) -> None:
    """Show a key or write it into a file; nothing of it is kept."""
    if into is not None:
        _write_whole(into, issued)
    shown = {"id": issued.id, "file": str(into)} if into is not None else {"id": issued.id, "key": issued.text}
    if as_json:
        print_json(shown)
    else:
        print_facts(shown)


def _write_whole(path: Path, issued: IssuedKey) -> None:
    """Write a key into a file that only its owner reads, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(issued.text + "\n")
        fresh.replace(path)
    except OSError as error:
        lost = f"what was made for it is lost: rotate {issued.id} into another file, or revoke it"
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}; {lost}.") from error


def _cells(record: KeyRecord, secret: Secret, now: datetime) -> Sequence[str]:
    """One secret of a key as a row."""
    expired = secret.expires is not None and secret.expires <= now
    state = "revoked" if record.revoked else "expired" if expired else "valid"
    name = f"{record.name} (service)" if record.kind == "service" else record.name
    scopes = " ".join(sorted(record.scopes))
    return (record.id, name, scopes, secret.prefix, _day(secret.expires), _day(secret.last_used), state)


def _day(moment: datetime | None) -> str:
    """A day for people, in UTC."""
    return "never" if moment is None else f"{moment:%Y-%m-%d}"


def _told(record: KeyRecord) -> dict[str, Any]:
    """A key for programs."""
    return {
        "id": record.id,
        "name": record.name,
        "kind": record.kind,
        "scopes": sorted(record.scopes),
        "created": _moment(record.created),
        "revoked": _moment(record.revoked),
        "secrets": [
            {
                "prefix": secret.prefix,
                "created": _moment(secret.created),
                "expires": _moment(secret.expires),
                "last_used": _moment(secret.last_used),
            }
            for secret in record.secrets
        ],
    }


def _moment(moment: datetime | None) -> str | None:
    """A moment as RFC 3339 in UTC."""
    return None if moment is None else rfc3339(moment)
