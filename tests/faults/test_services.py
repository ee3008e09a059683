"""The four services as processes on PostgreSQL and Ceph: each killed under load, then their database, then their store."""

from __future__ import annotations

import hashlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from shared.catalog import Catalog
from shared.database import Database
from shared.http.migrations import migrate
from shared.storage import DirectoryStore
from tests.fixtures.processes import PATIENCE_SECONDS, ROOT, ServiceProcess
from tests.fixtures.servers import connect
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.judging import JudgingHome
    from tests.servers.ceph import CephCluster

# The first test pays for the house: servers, four services, a model and what judges it.
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

SERVICES: Final = ("trainer", "sampler", "detector", "mitigator")
PHANTOM: Final[dict[str, Any]] = {"name": "a", "source": {"format": "phantom", "patients": 3}, "image_size": 16}
PROBLEM: Final = "urn:lethe:problem:"


@dataclass
class House:
    """Everything that runs, and where committed things are."""

    services: dict[str, ServiceProcess]
    postgres: PostgresServer
    ceph: CephCluster
    catalog: Catalog
    dataset: str
    model: str

    def post(self, service: str, path: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        """Ask a service."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return httpx.post(self.services[service].url + path, json=body, headers=headers, timeout=PATIENCE_SECONDS)

    def drawing(self, seed: int) -> dict[str, Any]:
        """A request for one small stored image."""
        return {"model": self.model, "prompts": ["a film"], "steps": 2, "guidance_scale": 1.0, "seed": seed, "output": "stored"}

    def settled(self, service: str, path: str) -> dict[str, Any]:
        """An operation when it is over."""
        process = self.services[service]
        process.wait_until(lambda: process.get(path).get("state") in {"succeeded", "failed", "cancelled"})
        return process.get(path)

    def status(self, service: str, path: str) -> int:
        """What a probe would see."""
        return httpx.get(self.services[service].url + path, timeout=30).status_code

    def becomes(self, service: str, status: int) -> None:
        """Wait until readiness says so."""
        self.services[service].wait_until(lambda: self.status(service, "/readyz") == status)

    def restart(self, service: str) -> None:
        """Start a service that was killed."""
        self.services[service].start()


@pytest.fixture(scope="module")
def house(shared_judging_home: JudgingHome, ceph_cluster: CephCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """All four on a migrated database and a stocked bucket, each with a disk of its own."""
    folder, bucket = tmp_path_factory.mktemp("house"), f"house-{secrets.token_hex(4)}"
    ceph_cluster.server.make_bucket(bucket)
    store = connect(ceph_cluster.server, bucket)
    copy_objects(shared_judging_home.settings.home / "store", store.put)
    postgres = PostgresServer()
    postgres.make()
    url = postgres.new_database()
    with closing(Database(url)) as database:
        migrate(database)
    environment = {
        "LETHE_DATABASE_URL": url,
        "LETHE_KEYS": str(folder / "keys"),
        "LETHE_STORE": "s3",
        "LETHE_S3_ENDPOINT": ceph_cluster.server.endpoint,
        "LETHE_S3_BUCKET": bucket,
        "LETHE_S3_SECURE": "false",
        "LETHE_S3_ACCESS_KEY": ceph_cluster.server.access_key,
        "LETHE_S3_SECRET_KEY": ceph_cluster.server.secret_key,
        "LETHE_TORCH_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    services = {name: ServiceProcess(name, environment | {"LETHE_HOME": str(folder / name)}) for name in SERVICES}
    for service in services.values():
        service.environment |= {f"LETHE_{name.upper()}_URL": other.url for name, other in services.items()}
    try:
        with ThreadPoolExecutor(len(services)) as starters:
            list(starters.map(ServiceProcess.start, services.values()))
        home = shared_judging_home.stocked
        yield House(services, postgres, ceph_cluster, Catalog(store, folder / "cache"), home.dataset.id, home.model.id)
    finally:
        for service in services.values():
            service.end()
        postgres.remove()
        store.close()


def copy_objects(folder: Path, put: Callable[..., object]) -> None:
    """Put every object of a directory store into another store."""
    source = DirectoryStore(folder)
    for found in source.list(prefix="", limit=10_000):
        put(key=found.key, data=source.get(key=found.key))


@dataclass
class Load:
    """What callers were told while they asked again and again."""

    answers: list[httpx.Response] = field(default_factory=list)
    broken: int = 0

    def __len__(self) -> int:
        return len(self.answers)


@contextmanager
def load(ask: Callable[[int], httpx.Response], callers: int = 2) -> Iterator[Load]:
    """Callers that ask one request after another while the block lasts; a connection that breaks is nobody's word."""
    told, over, numbers = Load(), threading.Event(), iter(range(100_000))

    def call() -> None:
        while not over.is_set():
            try:
                told.answers.append(ask(next(numbers)))
            except httpx.TransportError:
                told.broken += 1
                time.sleep(0.1)

    with ThreadPoolExecutor(callers) as threads:
        for _ in range(callers):
            threads.submit(call)
        try:
            yield told
        finally:
            over.set()


def test_killed_trainer_keeps_every_data_set_that_it_acknowledged(house: House) -> None:
    trainer = house.services["trainer"]
    with load(lambda number: house.post("trainer", "/v1/datasets", PHANTOM | {"seed": number}, key=f"set-{number}"), callers=1) as told:
        trainer.wait_until(lambda: len(told) >= 3)
        trainer.kill(signal.SIGKILL)
    acknowledged = [answer.json()["id"] for answer in told.answers]
    assert {answer.status_code for answer in told.answers} == {202}
    house.restart("trainer")
    again = house.post("trainer", "/v1/datasets", PHANTOM | {"seed": 0}, key="set-0")
    assert again.json()["id"] == acknowledged[0]
    assert {house.settled("trainer", f"/v1/datasets/{name}")["state"] for name in acknowledged} == {"succeeded"}
    assert all(house.catalog.fetch(house.catalog.get("dataset", name)).is_dir() for name in acknowledged)


def test_killed_sampler_has_every_image_that_it_acknowledged_and_no_half_one(house: House) -> None:
    sampler = house.services["sampler"]
    with load(lambda number: house.post("sampler", "/v1/generations", house.drawing(number))) as told:
        sampler.wait_until(lambda: len(told) >= 4)
        sampler.kill(signal.SIGKILL)
    house.restart("sampler")
    assert {answer.status_code for answer in told.answers} == {200}
    for image in (answer.json()["images"][0] for answer in told.answers):
        png = httpx.get(sampler.url + image["uri"], timeout=30)
        assert (png.status_code, hashlib.sha256(png.content).hexdigest()) == (200, image["sha256"])
    for committed in house.catalog.list("generation", 200)[0]:
        assert house.catalog.fetch(committed).is_dir()
    first = told.answers[0].json()["images"][0]
    redrawn = house.post("sampler", "/v1/generations", house.drawing(first["seed"])).json()["images"][0]
    assert redrawn["sha256"] == first["sha256"]


def test_killed_detector_ends_the_calibration_that_it_accepted_and_judges_as_before(house: House) -> None:
    detector = house.services["detector"]
    question = {"model": house.model, "prompts": ["a film"], "steps": 1, "seeds_per_prompt": 2}
    spec = {"model": house.model, "dataset": house.dataset, "false_positive_rate": 0.2, "steps": 2, "seeds_per_prompt": 2}
    with load(lambda _number: house.post("detector", "/v1/screenings", question)) as told:
        detector.wait_until(lambda: len(told) >= 2)
        accepted = house.post("detector", "/v1/calibrations", spec, key="calibration")
        assert accepted.status_code == 202
        detector.kill(signal.SIGKILL)
    house.restart("detector")
    scores = [answer.json()["results"][0]["score"] for answer in told.answers]
    afterwards = house.post("detector", "/v1/screenings", question).json()["results"][0]["score"]
    assert scores == pytest.approx([afterwards] * len(scores), rel=1e-4)
    done = house.settled("detector", f"/v1/calibrations/{accepted.json()['id']}")
    assert done["state"] == "succeeded", done["error"]
    assert house.catalog.get("calibration", accepted.json()["id"]).id == accepted.json()["id"]


def test_killed_mitigator_answers_as_before(house: House) -> None:
    mitigator = house.services["mitigator"]
    wanted = house.drawing(0) | {"output": "inline", "mitigation": {"strategy": "auto", "parameters": {}}}
    with load(lambda _number: house.post("mitigator", "/v1/generations", wanted)) as told:
        mitigator.wait_until(lambda: len(told) >= 2)
        mitigator.kill(signal.SIGKILL)
    house.restart("mitigator")
    before, after = told.answers[0], house.post("mitigator", "/v1/generations", wanted)
    assert after.status_code == before.status_code
    assert after.json().get("images") == before.json().get("images")
    assert after.json().get("type") == before.json().get("type")


def test_database_that_restarts_is_told_by_readiness_and_costs_nothing_acknowledged(house: House) -> None:
    accepted = [house.post("trainer", "/v1/datasets", PHANTOM | {"seed": 100 + number}).json()["id"] for number in range(3)]
    house.postgres.kill()
    for service in ("trainer", "detector"):
        house.becomes(service, 503)
        assert house.status(service, "/livez") == 200
    refused = house.post("trainer", "/v1/datasets", PHANTOM)
    assert (refused.status_code, refused.json()["type"]) == (503, PROBLEM + "dependency-unavailable")
    assert refused.headers["Retry-After"]
    house.postgres.start()
    for service in SERVICES:
        house.becomes(service, 200)
    assert {house.settled("trainer", f"/v1/datasets/{name}")["state"] for name in accepted} == {"succeeded"}


def test_store_that_restarts_is_told_by_readiness_and_waited_for_by_jobs(house: House) -> None:
    house.ceph.kill_gateway()
    try:
        for service in SERVICES:
            house.becomes(service, 503)
            assert house.status(service, "/livez") == 200
        refused = house.post("sampler", "/v1/generations", house.drawing(7))
        assert (refused.status_code, refused.json()["type"]) == (503, PROBLEM + "dependency-unavailable")
        accepted = house.post("trainer", "/v1/datasets", PHANTOM | {"seed": 200})
        assert accepted.status_code == 202
    finally:
        house.ceph.start_gateway()
    for service in SERVICES:
        house.becomes(service, 200)
    assert house.settled("trainer", f"/v1/datasets/{accepted.json()['id']}")["state"] == "succeeded"
    assert house.post("sampler", "/v1/generations", house.drawing(7)).status_code == 200


def test_full_store_stops_who_writes_and_no_one_else_until_there_is_room(house: House) -> None:
    kept = house.post("sampler", "/v1/generations", house.drawing(8)).json()["images"][0]
    with house.ceph.full(), ThreadPoolExecutor(6) as callers:
        accepted = house.post("trainer", "/v1/datasets", PHANTOM | {"seed": 300})
        assert accepted.status_code == 202
        stored = [callers.submit(house.post, "sampler", "/v1/generations", house.drawing(20 + number)) for number in range(6)]
        for refused in (answer.result() for answer in stored):
            assert (refused.status_code, refused.json()["type"]) == (503, PROBLEM + "dependency-unavailable")
            assert refused.headers["Retry-After"]
        inline = house.post("sampler", "/v1/generations", house.drawing(9) | {"output": "inline"})
        assert inline.status_code == 200
        assert house.status("sampler", kept["uri"]) == 200
        house.becomes("trainer", 503)
        assert house.status("trainer", "/livez") == 200
        assert [house.status(service, "/readyz") for service in SERVICES[1:]] == [200, 200, 200]
        assert house.services["trainer"].get(f"/v1/datasets/{accepted.json()['id']}")["state"] == "running"
    house.becomes("trainer", 200)
    assert house.settled("trainer", f"/v1/datasets/{accepted.json()['id']}")["state"] == "succeeded"
    assert house.post("sampler", "/v1/generations", house.drawing(20)).status_code == 200
