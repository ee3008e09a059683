"""Quotas: counted together by all replicas, told when they are used up, given back when nothing came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from shared.access import EVERY_SCOPE, Caller
from shared.access.quota_tables import QUOTA_SCHEMA, QUOTA_USAGE
from shared.access.quotas import Quotas
from shared.database import Database, prepare_schema
from shared.errors import LimitExceededError, QuotaExceededError
from shared.settings import Settings

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

WARD = Caller(id="key_ward", kind="key", scopes=EVERY_SCOPE)
CLINIC = Caller(id="key_clinic", kind="key", scopes=EVERY_SCOPE)
SERVICE = Caller(id="key_mitigator", kind="service", scopes=EVERY_SCOPE)
NOON = datetime(2026, 11, 1, 12, 0, 40, tzinfo=UTC)
Open = Callable[..., Quotas]


def ids(prompts: list[str]) -> list[list[int]]:
    """What a model reads of prompts."""
    return [list(prompt.encode()) for prompt in prompts]


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_quotas(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the quotas of one replica: `open_quotas(requests_per_minute=2)`."""
    with ExitStack() as opened:

        def open_one(url: str = f"sqlite:///{tmp_path / 'lethe.db'}", **limits: int) -> Quotas:
            database = Database(url)
            prepare_schema(database.engine, QUOTA_SCHEMA)
            opened.callback(database.close)
            return Quotas(database, Settings(home=tmp_path, **{f"quota_{name}": limit for name, limit in limits.items()}), now=clock)

        yield open_one


def rows(quotas: Quotas) -> int:
    with quotas._database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(QUOTA_USAGE)) or 0


def test_requests_beyond_the_minute_are_refused_until_it_ends(open_quotas: Open, clock: Clock) -> None:
    first, second = open_quotas(requests_per_minute=2), open_quotas(requests_per_minute=2)
    assert first.count_requests
    first.charge_request(WARD)
    second.charge_request(WARD)
    with pytest.raises(QuotaExceededError, match="2 requests a minute") as refused:
        first.charge_request(WARD)
    assert refused.value.retry_after_seconds == 20
    second.charge_request(CLINIC)
    clock.now += timedelta(seconds=20)
    first.charge_request(WARD)
    assert rows(first) == 1  # what anybody used of the minute that is over is forgotten


def test_services_are_not_counted_again(open_quotas: Open) -> None:
    quotas = open_quotas(requests_per_minute=1)
    for _ in range(3):
        quotas.charge_request(SERVICE)
    assert rows(quotas) == 0


def test_without_limits_nothing_is_counted(open_quotas: Open) -> None:
    quotas = open_quotas()
    assert not quotas.count_requests
    assert quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"] * 64), images_per_prompt=16) is None
    assert rows(quotas) == 0


def test_images_are_counted_by_day_and_caller(open_quotas: Open, clock: Clock) -> None:
    quotas = open_quotas(images_per_day=10)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a", "b"]), images_per_prompt=4)
    with pytest.raises(QuotaExceededError, match="10 images a day") as refused:
        quotas.charge_images(WARD, model_digest="mdl_2", token_ids=ids(["c"]), images_per_prompt=3)
    assert refused.value.retry_after_seconds == 12 * 3600 - 40
    quotas.charge_images(WARD, model_digest="mdl_2", token_ids=ids(["c"]), images_per_prompt=2)
    quotas.charge_images(CLINIC, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=10)
    clock.now += timedelta(days=1)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=10)


def test_images_of_one_prompt_are_counted_by_what_the_model_reads(open_quotas: Open) -> None:
    quotas = open_quotas(images_per_prompt_per_day=5)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["chest", "chest", "another"]), images_per_prompt=2)
    with pytest.raises(QuotaExceededError, match="5 images of one prompt and model a day"):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["chest"]), images_per_prompt=2)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["chest"]), images_per_prompt=1)
    quotas.charge_images(WARD, model_digest="mdl_2", token_ids=ids(["chest"]), images_per_prompt=5)
    quotas.charge_images(CLINIC, model_digest="mdl_1", token_ids=ids(["chest"]), images_per_prompt=5)


def test_request_that_no_day_allows_is_refused_for_good(open_quotas: Open) -> None:
    quotas = open_quotas(images_per_prompt_per_day=5)
    with pytest.raises(LimitExceededError, match="asks for 6 at once"):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a", "a"]), images_per_prompt=3)
    assert rows(quotas) == 0


def test_refused_request_is_charged_on_no_meter(open_quotas: Open) -> None:
    quotas = open_quotas(images_per_day=10, images_per_prompt_per_day=5)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=5)
    with pytest.raises(QuotaExceededError, match="one prompt"):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["b", "a"]), images_per_prompt=2)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["b"]), images_per_prompt=5)


def test_what_is_given_back_may_be_asked_for_again(open_quotas: Open, clock: Clock) -> None:
    quotas = open_quotas(images_per_day=4, images_per_prompt_per_day=4)
    charge = quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    assert charge is not None
    quotas.give_back(charge)
    quotas.give_back(charge)  # never below nothing
    charge = quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    assert charge is not None
    with pytest.raises(QuotaExceededError):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["b"]), images_per_prompt=1)
    clock.now += timedelta(days=1)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    quotas.give_back(charge)
    with pytest.raises(QuotaExceededError):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=1)


def test_who_a_service_works_for_is_charged(open_quotas: Open) -> None:
    quotas = open_quotas(images_per_day=4)
    for_ward = Caller(id="key_mitigator", kind="service", scopes=EVERY_SCOPE, on_behalf_of=WARD.id)
    quotas.charge_images(for_ward, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    with pytest.raises(QuotaExceededError):
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["b"]), images_per_prompt=1)


def test_no_prompt_is_kept(open_quotas: Open, tmp_path: Path) -> None:
    open_quotas(images_per_prompt_per_day=5).charge_images(WARD, model_digest="mdl_1", token_ids=ids(["quokka"]), images_per_prompt=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"quokka" in path.read_bytes()] == []


def charge_by_many(open_quotas: Open, url: str) -> None:
    """Of requests that come at once to several replicas, exactly those pass that the quota allows."""
    outcomes: list[str] = []

    def ask() -> None:
        quotas = open_quotas(url, images_per_day=20, images_per_prompt_per_day=20)
        for number in range(10):
            try:
                quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a", f"{number}"]), images_per_prompt=1)
                outcomes.append("charged")
            except QuotaExceededError:
                outcomes.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("charged"), outcomes.count("refused")) == (10, 30)


def test_replicas_on_sqlite_count_together(open_quotas: Open, tmp_path: Path) -> None:
    charge_by_many(open_quotas, f"sqlite:///{tmp_path / 'shared.db'}")


@pytest.mark.server
def test_replicas_on_postgresql_count_together(open_quotas: Open, postgres_server: PostgresServer) -> None:
    charge_by_many(open_quotas, postgres_server.new_database())


@pytest.mark.server
def test_what_somebody_holds_of_the_day_before_is_not_waited_for(open_quotas: Open, postgres_server: PostgresServer, clock: Clock) -> None:
    quotas = open_quotas(postgres_server.new_database(), images_per_day=4)
    quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    clock.now += timedelta(days=1)
    with quotas._database.writing() as holding:
        holding.execute(update(QUOTA_USAGE).values(used=0))
        quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(["a"]), images_per_prompt=4)
    assert rows(quotas) == 2


@pytest.mark.server
def test_first_requests_of_a_day_do_not_wait_for_each_other_on_postgresql(
    open_quotas: Open, postgres_server: PostgresServer, clock: Clock
) -> None:
    url, failures = postgres_server.new_database(), []
    replicas = [open_quotas(url, images_per_prompt_per_day=1000) for _ in range(8)]

    def ask(quotas: Quotas, together: threading.Barrier, first: int) -> None:
        together.wait(60)
        try:
            for number in range(4):
                prompts = [f"{(first + number + place) % 12}" for place in range(12)]
                quotas.charge_images(WARD, model_digest="mdl_1", token_ids=ids(prompts), images_per_prompt=1)
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    for _ in range(12):
        together = threading.Barrier(len(replicas))
        threads = [threading.Thread(target=ask, args=(quotas, together, number)) for number, quotas in enumerate(replicas)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now += timedelta(days=1)
    assert failures == []
    assert rows(replicas[0]) == 12
