"""API keys in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from shared.access import Caller
from shared.access.key_records import EndedKeyError, KeyRecords
from shared.access.key_tables import ACCESS_SCHEMA
from shared.database import Database, prepare_schema
from shared.errors import ConflictError, InvalidRequestError, NotFoundError, UnauthenticatedError
from tests.servers.postgres import PostgresServer

DAY = timedelta(days=1)


def refusal(records: KeyRecords, key: str, *, now: datetime | None = None) -> str:
    """Why a key is refused."""
    with pytest.raises(UnauthenticatedError) as raised:
        records.caller_of(key, now=now)
    assert key not in str(raised.value)
    return raised.value.reason


def test_created_key_opens_to_its_caller(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read", "score"], lifetime=DAY)
    assert records.caller_of(issued.text) == Caller(id=issued.id, kind="key", scopes=frozenset({"read", "score"}))


def test_key_of_a_service_is_of_its_kind(records: KeyRecords) -> None:
    issued = records.create(name="mitigator", kind="service", scopes=["score"], lifetime=None)
    assert records.caller_of(issued.text).kind == "service"


def test_database_holds_neither_keys_nor_what_tests_them(records: KeyRecords, database: Database) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    with database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM access_key_secrets")).all()
    assert issued.text.rsplit("_", 1)[-1] not in repr(rows)
    assert refusal(KeyRecords(database, pepper=b"q" * 32), issued.text) == "unknown"


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE access_keys SET scopes = '["admin", "read"]' WHERE name = 'ward a'""",
        "UPDATE access_keys SET kind = 'service' WHERE name = 'ward a'",
        "UPDATE access_key_secrets SET key_id = (SELECT id FROM access_keys WHERE name = 'operator')",
    ],
    ids=["scopes", "kind", "key"],
)
def test_who_writes_to_the_database_can_make_no_key_grant_more(records: KeyRecords, database: Database, change: str) -> None:
    records.create(name="operator", scopes=["admin"], lifetime=DAY)
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    rotated = records.rotate(issued.id, lifetime=DAY, overlap=DAY)
    assert records.caller_of(rotated.text) == records.caller_of(issued.text)
    with database.writing() as connection:
        connection.execute(text(change))
    assert [refusal(records, key.text) for key in (issued, rotated)] == ["unknown", "unknown"]


def test_unknown_key_is_refused(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    assert refusal(records, "lethe_000000000000_" + "A" * 43) == "unknown"
    assert refusal(records, issued.text[:-1] + ("A" if issued.text[-1] != "A" else "B")) == "unknown"
    assert refusal(records, "open sesame") == "malformed"


def test_expired_key_is_refused_with_the_reason(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    now = datetime.now(UTC)
    assert records.caller_of(issued.text, now=now + DAY - timedelta(minutes=1)).id == issued.id
    assert refusal(records, issued.text, now=now + DAY + timedelta(minutes=1)) == "expired"


def test_key_without_a_lifetime_does_not_expire(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    assert records.caller_of(issued.text, now=datetime.now(UTC) + 10_000 * DAY).id == issued.id


def test_revoked_key_is_refused_with_all_its_secrets(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    rotated = records.rotate(issued.id, lifetime=DAY, overlap=DAY)
    records.revoke(issued.id)
    revoked = records.list()[0].revoked
    records.revoke(issued.id)
    assert refusal(records, issued.text) == refusal(records, rotated.text) == "revoked"
    assert records.list()[0].revoked == revoked
    with pytest.raises(ConflictError, match="revoked"):
        records.rotate(issued.id, lifetime=DAY, overlap=DAY)


def test_rotated_key_stays_the_same_caller_and_the_old_secret_ends_after_the_overlap(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    rotated = records.rotate(issued.id, lifetime=10 * DAY, overlap=DAY)
    now = datetime.now(UTC)
    assert records.caller_of(issued.text) == records.caller_of(rotated.text)
    assert refusal(records, issued.text, now=now + 2 * DAY) == "expired"
    assert records.caller_of(rotated.text, now=now + 2 * DAY).id == issued.id


def test_rotation_lengthens_no_life(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    records.rotate(issued.id, lifetime=DAY, overlap=30 * DAY)
    assert refusal(records, issued.text, now=datetime.now(UTC) + 2 * DAY) == "expired"


def test_list_tells_all_but_the_secret(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["score", "read"], lifetime=DAY)
    records.rotate(issued.id, lifetime=None, overlap=timedelta())
    (record,) = records.list()
    assert (record.id, record.name, record.kind, record.scopes, record.revoked) == (issued.id, "ward a", "key", {"read", "score"}, None)
    assert [secret.expires is None for secret in record.secrets] == [False, True]
    assert issued.text.split("_")[1] == record.secrets[0].prefix


def test_last_use_is_kept_to_the_minute(records: KeyRecords) -> None:
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    first = datetime(2030, 1, 1, tzinfo=UTC)
    moments = []
    for seconds in (0, 59, 60):
        records.caller_of(issued.text, now=first + timedelta(seconds=seconds))
        moments.append(records.list()[0].secrets[0].last_used)
    assert moments == [first, first, first + timedelta(seconds=60)]


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines", "nul\0"])
def test_name_that_no_table_shows_is_refused(records: KeyRecords, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        records.create(name=name, scopes=["read"], lifetime=None)


def test_scope_that_no_route_asks_for_is_refused(records: KeyRecords) -> None:
    with pytest.raises(InvalidRequestError, match="'root'"):
        records.create(name="ward a", scopes=["read", "root"], lifetime=None)  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match="needs a scope"):
        records.create(name="ward a", scopes=[], lifetime=None)


@pytest.mark.parametrize("change", ["rotate", "revoke"])
def test_unknown_key_cannot_be_changed(records: KeyRecords, change: str) -> None:
    with pytest.raises(NotFoundError, match="key_none"):
        records.revoke("key_none") if change == "revoke" else records.rotate("key_none", lifetime=None, overlap=DAY)


def test_witness_sees_each_change_and_can_prevent_it(database: Database) -> None:
    seen: list[tuple[str, str]] = []

    def watch(_connection: Connection, verb: str, key_id: str) -> None:
        if len(seen) == 3:
            raise ConflictError("nobody may know")
        seen.append((verb, key_id))

    records = KeyRecords(database, pepper=b"p" * 32, witness=watch)
    issued = records.create(name="ward a", scopes=["read"], lifetime=None)
    records.rotate(issued.id, lifetime=None, overlap=DAY)
    records.revoke(issued.id)
    with pytest.raises(ConflictError):
        records.create(name="ward b", scopes=["read"], lifetime=None)
    assert seen == [("create", issued.id), ("rotate", issued.id), ("revoke", issued.id)]
    assert [record.name for record in records.list()] == ["ward a"]


@pytest.mark.server
def test_keys_live_in_postgresql_too(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.new_database())
    prepare_schema(database.engine, ACCESS_SCHEMA)
    records = KeyRecords(database, pepper=b"p" * 32)
    issued = records.create(name="ward a", scopes=["read"], lifetime=DAY)
    rotated = records.rotate(issued.id, lifetime=DAY, overlap=timedelta())
    assert refusal(records, issued.text) == "expired"
    assert records.caller_of(rotated.text).scopes == {"read"}
    records.revoke(issued.id)
    assert refusal(records, rotated.text) == "revoked"
    database.close()


def test_key_that_ended_is_refused_with_its_holders_name_and_no_scope(records: KeyRecords) -> None:
    revoked = records.create(name="ward a", scopes=["read"], lifetime=None)
    expired = records.create(name="mitigator", kind="service", scopes=["score"], lifetime=DAY)
    records.revoke(revoked.id)
    for issued, kind, reason in ((revoked, "key", "revoked"), (expired, "service", "expired")):
        with pytest.raises(EndedKeyError) as raised:
            records.caller_of(issued.text, now=datetime.now(UTC) + 2 * DAY)
        assert (raised.value.holder, raised.value.reason) == (Caller(id=issued.id, kind=kind, scopes=frozenset()), reason)
