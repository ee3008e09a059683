"""Answers kept in SQL: taken once, repeated, expired, and free again when their process died."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from shared.database import Database, prepare_schema
from shared.errors import UnavailableError
from shared.http import kept_answers
from shared.http.kept_answers import ANSWER_SCHEMA, ANSWERS, Claim, KeptAnswers
from shared.jobs.idempotency import KEPT_FOR, IdempotencyInFlightError, IdempotencyKey, IdempotencyKeyReusedError
from shared.jobs.leases import new_owner
from tests.servers.postgres import PostgresServer

ELSEWHERE = "another-host/0/1/1/aa"  # whether that process lives cannot be told from here


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'lethe.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
    opened = Database(url)
    prepare_schema(opened.engine, ANSWER_SCHEMA)
    yield opened
    opened.close()


def key(name: str = "k", *, holder: str = "somebody", scope: str = "POST /v1/things", fingerprint: str = "f") -> IdempotencyKey:
    return IdempotencyKey(holder=holder, scope=scope, key=name, fingerprint=fingerprint)


def claimed(answers: KeptAnswers, wanted: IdempotencyKey) -> Claim:
    claim = answers.claim(wanted)
    assert isinstance(claim, Claim)
    return claim


def owned_by(database: Database, owner: str) -> None:
    with database.writing() as connection:
        connection.execute(update(ANSWERS).values(owner=owner))


def test_kept_answer_is_repeated_to_the_same_key_only(database: Database) -> None:
    answers = KeptAnswers(database)
    answers.keep(claimed(answers, key()), b'{"id": "gen_1"}')
    assert answers.claim(key()) == b'{"id": "gen_1"}'
    assert isinstance(answers.claim(key("other")), Claim)
    assert isinstance(answers.claim(key(scope="POST /v1/others")), Claim)


def test_other_body_is_refused_while_it_runs_and_afterwards(database: Database) -> None:
    answers = KeptAnswers(database)
    claim = claimed(answers, key())
    with pytest.raises(IdempotencyKeyReusedError):
        answers.claim(key(fingerprint="g"))
    answers.keep(claim, b"{}")
    with pytest.raises(IdempotencyKeyReusedError):
        answers.claim(key(fingerprint="g"))


def test_second_request_is_refused_while_the_first_runs(database: Database) -> None:
    answers = KeptAnswers(database)
    claim = claimed(answers, key())
    with pytest.raises(IdempotencyInFlightError):
        answers.claim(key())
    answers.release(claim)
    assert isinstance(answers.claim(key()), Claim)


def test_of_many_at_once_exactly_one_gets_the_claim(database: Database) -> None:
    answers = KeptAnswers(database)
    claims: list[Claim | bytes] = []
    refused: list[IdempotencyInFlightError] = []

    def ask() -> None:
        try:
            claims.append(answers.claim(key()))
        except IdempotencyInFlightError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(claims), len(refused)) == (1, 7)


def test_claim_of_a_dead_process_is_taken_over_at_once(database: Database) -> None:
    answers = KeptAnswers(database)
    claimed(answers, key())
    host, namespace, _pid, _started, random = new_owner().split("/")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    owned_by(database, "/".join((host, namespace, str(process.pid), "1", random)))
    assert isinstance(answers.claim(key()), Claim)


def test_claim_from_elsewhere_holds_until_its_lease_runs_out(database: Database) -> None:
    patient = KeptAnswers(database)
    claimed(patient, key())
    owned_by(database, ELSEWHERE)
    with pytest.raises(IdempotencyInFlightError):
        patient.claim(key())
    hasty = KeptAnswers(database, lease=timedelta(0))
    claim = claimed(hasty, key("second"))
    owned_by(database, ELSEWHERE)
    assert claimed(hasty, key("second")) != claim


def test_who_lost_its_claim_changes_nothing(database: Database) -> None:
    hasty = KeptAnswers(database, lease=timedelta(0))
    lost = claimed(hasty, key())
    owned_by(database, ELSEWHERE)
    held = claimed(KeptAnswers(database), key())
    hasty.keep(lost, b"late")
    hasty.release(lost)
    hasty.keep(held, b"right")
    assert hasty.claim(key()) == b"right"


def test_renewed_claim_outlives_its_first_lease(database: Database) -> None:
    claim = claimed(KeptAnswers(database, lease=timedelta(0)), key())
    answers = KeptAnswers(database)
    with database.writing() as connection:
        connection.execute(update(ANSWERS).values(owner=ELSEWHERE))
    answers.renew(Claim(claim.id, ELSEWHERE))
    with pytest.raises(IdempotencyInFlightError):
        answers.claim(key())


def expire(database: Database) -> None:
    """Make all answers as old as they get."""
    with database.writing() as connection:
        created = connection.scalar(select(ANSWERS.c.created))
        assert created is not None
        connection.execute(update(ANSWERS).values(created=created - KEPT_FOR))


def count(database: Database) -> int:
    with database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(ANSWERS)) or 0


def test_answers_past_their_time_are_deleted_whoever_asks(database: Database) -> None:
    answers = KeptAnswers(database)
    answers.keep(claimed(answers, key()), b"{}")
    expire(database)
    claimed(answers, key("other"))
    assert count(database) == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("logged")
async def test_answers_past_their_time_are_deleted_though_nobody_asks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the database was away the first time."""
    monkeypatch.setattr(kept_answers, "_FORGETTING_SECONDS", 0.01)
    answers = KeptAnswers(database)
    answers.keep(claimed(answers, key()), b"{}")
    expire(database)
    forget_expired = KeptAnswers.forget_expired
    tries = iter(["the database is away"])
    loop, forgotten = asyncio.get_running_loop(), asyncio.Event()

    def forget(those: KeptAnswers) -> None:
        if next(tries, None) is not None:
            raise UnavailableError("The database does not answer; try again later.")
        forget_expired(those)
        loop.call_soon_threadsafe(forgotten.set)

    monkeypatch.setattr(KeptAnswers, "forget_expired", forget)
    async with asyncio.timeout(60), kept_answers.forgetting(database):
        await forgotten.wait()
    assert count(database) == 0


def test_what_one_caller_may_have_kept_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "MAX_HELD_BYTES", 10)
    answers = KeptAnswers(database)
    answers.keep(claimed(answers, key("first")), b"123456")
    answers.keep(claimed(answers, key("too much", scope="POST /v1/others")), b"12345")
    assert isinstance(answers.claim(key("too much", scope="POST /v1/others")), Claim)
    answers.keep(claimed(answers, key("that fits")), b"1234")
    answers.keep(claimed(answers, key(holder="somebody else")), b"12345")
    assert answers.claim(key("first")) == b"123456"
    assert answers.claim(key("that fits")) == b"1234"
    assert answers.claim(key(holder="somebody else")) == b"12345"


def test_answer_that_is_too_large_frees_its_key(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "MAX_ANSWER_BYTES", 4)
    answers = KeptAnswers(database)
    answers.keep(claimed(answers, key()), b"12345")
    assert isinstance(answers.claim(key()), Claim)
