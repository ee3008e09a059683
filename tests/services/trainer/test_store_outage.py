"""A real S3 server that is away for a real minute in the middle of a training: the training goes on and loses nothing."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from services.trainer.training_jobs import run_training
from shared.catalog import Catalog, new_id
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.optimisation import Run
from shared.errors import UnavailableError
from shared.jobs.context import JobContext
from shared.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.settings import Settings
    from shared.storage import ObjectStore, S3Store
    from tests.fixtures.models import StockedHome
    from tests.servers.ceph import CephCluster
    from tests.servers.s3_server import S3Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

AWAY_SECONDS = 60.0
STEP_SECONDS = 2.5
STEPS = 32


def on_server(home: StockedHome, server: S3Server, bucket: str) -> Settings:
    """The home's settings with its objects on an S3 server."""
    keys = {"s3_access_key": SecretStr(server.access_key), "s3_secret_key": SecretStr(server.secret_key)}
    place = {"store": "s3", "s3_endpoint": server.endpoint, "s3_bucket": bucket, "s3_secure": False, "s3_region": server.region}
    return home.settings.model_copy(update=place | keys)


def copy_objects(source: ObjectStore, target: ObjectStore) -> None:
    """All objects of one store in another."""
    for found in source.list(prefix=""):
        target.put(key=found.key, data=source.get(key=found.key))


class SlowTraining(threading.Thread):
    """A training of steps that take their time."""

    def __init__(self, context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(daemon=True)
        self.context = context
        self.step = 0
        self.result: dict[str, Any] = {}
        advance = Run.advance

        def slowly(run: Run) -> Any:
            time.sleep(STEP_SECONDS)
            self.step = run.step + 1
            return advance(run)

        monkeypatch.setattr(Run, "advance", slowly)

    def run(self) -> None:
        self.result = run_training(self.context)

    def kept(self) -> int:
        """The step of the newest checkpoint in the store."""
        return int(self.context._reported.get("checkpoint_step", 0) or 0)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_store_that_is_away_for_a_minute_costs_a_training_nothing(
    stocked_home: StockedHome,
    context: Callable[..., JobContext],
    ceph_cluster: CephCluster,
    open_bucket: Callable[[S3Server], S3Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = {"name": "a", "dataset": stocked_home.dataset.id, "base": stocked_home.model.id, "steps": STEPS, "batch_size": 4, "seed": 5}
    spec |= {"checkpoint_every": 2}
    undisturbed = run_training(context("training", new_id("job"), spec))
    with_directory = open_store(stocked_home.settings)
    bucket = open_bucket(ceph_cluster.server)
    copy_objects(with_directory, bucket)
    job = context("training", new_id("job"), spec)
    settings = on_server(stocked_home, ceph_cluster.server, bucket._bucket)
    training = SlowTraining(JobContext(job=job._store.get(job.id), store=job._store, settings=settings), monkeypatch)
    training.start()
    training.wait_for(lambda: training.kept() >= 2)
    ceph_cluster.kill_gateway()
    gone_at, step_at = time.monotonic(), training.step
    try:
        with pytest.raises(UnavailableError):
            bucket.exists(key="ping")
        time.sleep(AWAY_SECONDS - (time.monotonic() - gone_at))
        went_on, kept = training.step - step_at, training.kept()
    finally:
        ceph_cluster.start_gateway()
    assert went_on >= 0.7 * AWAY_SECONDS / STEP_SECONDS  # it did not wait for the store
    assert kept <= step_at
    training.wait_for(lambda: training.kept() > step_at)  # still training, and kept again
    training.join(120)
    assert not training.is_alive()

    def weights(store: ObjectStore, model: str) -> dict[str, str]:
        files = Catalog(store, stocked_home.folder / "cache").get("model", model).files
        return {file.path: file.sha256 for file in files if file.path.endswith(".safetensors")}

    assert weights(bucket, training.result["model"]) == weights(with_directory, undisturbed["model"])
    assert CheckpointStore(bucket, job.id, scratch=stocked_home.folder, keep=2).steps() == []
