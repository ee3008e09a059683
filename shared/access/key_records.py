"""The API keys of an installation in its SQL database: created, listed, rotated, revoked, and found again by what a caller shows."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from sqlalchemy import Connection, Row, insert, or_, select, update

from shared.access.api_keys import fresh_key, hash_of, prefix_of
from shared.access.caller import EVERY_SCOPE, Caller, Scope
from shared.access.key_tables import KEYS, SECRETS
from shared.database import Database
from shared.errors import ConflictError, InvalidRequestError, NotFoundError, UnauthenticatedError
from shared.kept_keys import kept_key
from shared.settings import Settings

KeyKind = Literal["key", "service"]
# Told of every change inside its transaction: what was done (create, rotate, revoke) and to which key.
KeyWitness = Callable[[Connection, str, str], None]

PEPPER_FILE: Final = "api-keys.key"
# Written at most this often, so that reading a key costs no write.
_LAST_USED_EVERY: Final = timedelta(minutes=1)
_NAME_CHARACTERS: Final = 64


class EndedKeyError(UnauthenticatedError):
    """A key that was good is shown after it was revoked or has expired; `holder` is whose it is, who may do nothing by it."""

    def __init__(self, message: str, *, reason: str, holder: Caller) -> None:
        """Keep the holder beside the reason."""
        super().__init__(message, reason=reason)
        self.holder = holder


@dataclass(frozen=True, slots=True)
class Secret:
    """One of the secrets that open a key, by its public prefix."""

    prefix: str
    created: datetime
    expires: datetime | None
    last_used: datetime | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key and its secrets, the newest last; none of them can be read back."""

    id: str
    name: str
    kind: KeyKind
    scopes: frozenset[Scope]
    created: datetime
    revoked: datetime | None
    secrets: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """What is shown once: the key's id, and the text that opens it."""

    id: str
    text: str


class KeyRecords:
    """The table of keys; safe to share between threads."""

    def __init__(self, database: Database, *, pepper: bytes, witness: KeyWitness | None = None) -> None:
        self._database = database
        self._pepper = pepper
        self._witness = witness or _nobody_watches

    @classmethod
    def of(cls, settings: Settings, database: Database, *, witness: KeyWitness | None = None) -> Self:
        """The keys in a database, hashed with the installation's own pepper."""
        return cls(database, pepper=kept_key(settings.keys_folder / PEPPER_FILE), witness=witness)

    def hash_of(self, key: str) -> bytes:
        """By what a key is remembered in memory."""
        return hash_of(key, pepper=self._pepper)

    def create(self, *, name: str, scopes: Sequence[Scope], kind: KeyKind = "key", lifetime: timedelta | None) -> IssuedKey:
        """A new key with one secret, which ends after its lifetime (None: never)."""
        _require_name(name)
        _require_scopes(scopes)
        issued = IssuedKey(id=f"key_{secrets.token_hex(8)}", text=fresh_key())
        now = datetime.now(UTC)
        with self._database.writing() as connection:
            connection.execute(
                insert(KEYS).values(id=issued.id, name=name, kind=kind, scopes=sorted(set(scopes)), created=now, revoked=None)
            )
            self._add_secret(connection, issued, grants=_grants(issued.id, kind, scopes), now=now, lifetime=lifetime)
            self._witness(connection, "create", issued.id)
        return issued

    def list(self) -> list[KeyRecord]:
        """All keys, the oldest first, revoked ones too."""
        with self._database.reading() as connection:
            keys = connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id)).all()
            rows = connection.execute(select(SECRETS).order_by(SECRETS.c.created, SECRETS.c.prefix)).all()
        return [_record(key, [row for row in rows if row.key_id == key.id]) for key in keys]

    def rotate(self, key_id: str, *, lifetime: timedelta | None, overlap: timedelta) -> IssuedKey:
        """Another secret for a key, which stays the same caller; those before it end after the overlap."""
        issued = IssuedKey(id=key_id, text=fresh_key())
        now = datetime.now(UTC)
        ends = now + overlap
        with self._database.writing() as connection:
            row = _row(connection, key_id)
            if row.revoked is not None:
                raise ConflictError(f"{key_id} is revoked; create another key instead.")
            older = (SECRETS.c.key_id == key_id) & or_(SECRETS.c.expires.is_(None), SECRETS.c.expires > ends)
            connection.execute(update(SECRETS).where(older).values(expires=ends))
            self._add_secret(connection, issued, grants=_grants(row.id, row.kind, row.scopes), now=now, lifetime=lifetime)
            self._witness(connection, "rotate", key_id)
        return issued

    def revoke(self, key_id: str) -> None:
        """End a key with all its secrets; again is harmless."""
        with self._database.writing() as connection:
            _row(connection, key_id)
            unrevoked = (KEYS.c.id == key_id) & KEYS.c.revoked.is_(None)
            connection.execute(update(KEYS).where(unrevoked).values(revoked=datetime.now(UTC)))
            self._witness(connection, "revoke", key_id)

    def caller_of(self, key: str, *, now: datetime | None = None) -> Caller:
        """The caller whom a key opens to; UnauthenticatedError says why there is none."""
        moment = now or datetime.now(UTC)
        prefix = prefix_of(key)
        if prefix is None:
            raise UnauthenticatedError("The credential is neither an API key of Lethe nor a token.", reason="malformed")
        with self._database.reading() as connection:
            row = connection.execute(select(SECRETS, KEYS).join_from(SECRETS, KEYS).where(SECRETS.c.prefix == prefix)).mappings().first()
        grants = _grants(row[KEYS.c.id], row[KEYS.c.kind], row[KEYS.c.scopes]) if row else ""
        shown = hash_of(key, pepper=self._pepper, grants=grants)
        # Compared also where there is no row, so that the time tells nothing of prefixes.
        if not hmac.compare_digest(row[SECRETS.c.hash] if row else bytes(32), shown) or row is None:
            raise UnauthenticatedError("The API key is not known here.", reason="unknown")
        holder = Caller(id=row[KEYS.c.id], kind=row[KEYS.c.kind], scopes=frozenset())
        if row[KEYS.c.revoked] is not None:
            raise EndedKeyError("The API key was revoked.", reason="revoked", holder=holder)
        expires = row[SECRETS.c.expires]
        if expires is not None and expires <= moment:
            raise EndedKeyError("The API key has expired.", reason="expired", holder=holder)
        self._note_use(prefix, last_used=row[SECRETS.c.last_used], now=moment)
        return replace(holder, scopes=EVERY_SCOPE & frozenset(row[KEYS.c.scopes]))

    def _add_secret(self, connection: Connection, issued: IssuedKey, *, grants: str, now: datetime, lifetime: timedelta | None) -> None:
        """Keep the hash of a secret that was just made."""
        connection.execute(
            insert(SECRETS).values(
                prefix=prefix_of(issued.text),
                key_id=issued.id,
                hash=hash_of(issued.text, pepper=self._pepper, grants=grants),
                created=now,
                expires=None if lifetime is None else now + lifetime,
                last_used=None,
            )
        )

    def _note_use(self, prefix: str, *, last_used: datetime | None, now: datetime) -> None:
        """Remember when a secret was used, to the minute."""
        if last_used is not None and now - last_used < _LAST_USED_EVERY:
            return
        with self._database.writing() as connection:
            connection.execute(update(SECRETS).where(SECRETS.c.prefix == prefix).values(last_used=now))


def _nobody_watches(_connection: Connection, _verb: str, _key_id: str) -> None:
    """The witness where there is none."""


def _grants(key_id: str, kind: str, scopes: Sequence[str]) -> str:
    """What a key is and allows, as it goes into the hashes of its secrets."""
    return json.dumps([key_id, kind, sorted(set(scopes))])


def _row(connection: Connection, key_id: str) -> Row[Any]:
    """A key's row; NotFoundError where there is none of this id."""
    row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).first()
    if row is None:
        raise NotFoundError(f"There is no key {key_id!r}; 'lethe key list' shows them.")
    return row


def _record(key: Row[Any], rows: Sequence[Row[Any]]) -> KeyRecord:
    """A key with its secrets, as they are shown."""
    kept = tuple(Secret(prefix=row.prefix, created=row.created, expires=row.expires, last_used=row.last_used) for row in rows)
    scopes = EVERY_SCOPE & frozenset(key.scopes)
    return KeyRecord(id=key.id, name=key.name, kind=key.kind, scopes=scopes, created=key.created, revoked=key.revoked, secrets=kept)


def _require_name(name: str) -> None:
    """Refuse a name that a table of keys could not show."""
    if not (0 < len(name) <= _NAME_CHARACTERS and name.isprintable()):
        raise InvalidRequestError(f"A key's name has 1 to {_NAME_CHARACTERS} printable characters.", field="name")


def _require_scopes(scopes: Sequence[str]) -> None:
    """Refuse scopes that no route asks for, and keys that could do nothing."""
    unknown = sorted(set(scopes) - EVERY_SCOPE)
    if unknown or not scopes:
        said = f"There is no scope {unknown[0]!r}" if unknown else "A key needs a scope"
        raise InvalidRequestError(f"{said}; there are {', '.join(sorted(EVERY_SCOPE))}.", field="scopes")
