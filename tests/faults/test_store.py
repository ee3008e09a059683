"""The object store killed, slow, silent, full, locked, or written to twice: nothing partial is seen, every error has its name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from shared.catalog import Catalog, ModelManifest
from shared.errors import AlreadyExistsError, NotFoundError, UnavailableError
from shared.http.problems import slug_of
from shared.storage import DirectoryStore, ObjectStore, S3Store, StoreFitness
from shared.storage.patience import PatientStore
from tests.faults.conftest import MEBIBYTE, model_manifest, weights
from tests.fixtures.servers import connect
from tests.servers.ceph import CephCluster
from tests.servers.fault_proxy import FaultProxy
from tests.servers.s3_server import S3Server

pytestmark = pytest.mark.server

AnswerT = TypeVar("AnswerT")
CatalogOn = Callable[[ObjectStore], Catalog]
UPLOAD_BYTES = 40 * MEBIBYTE  # three parts
PATIENCE = timedelta(seconds=90)


@pytest.fixture
def mortal_gateway(ceph_cluster: CephCluster) -> Iterator[CephCluster]:
    """A gateway that is there again when the test is over."""
    yield ceph_cluster
    ceph_cluster.kill_gateway()
    ceph_cluster.start_gateway()


def survives_a_restart(cluster: CephCluster, proxy: FaultProxy, work: Callable[[], AnswerT], *, after_bytes: int) -> AnswerT:
    """What the work answers whose gateway is killed after so many bytes, and started again by this thread: it dies with its starter."""
    killed = threading.Event()

    def kill() -> None:
        cluster.kill_gateway()
        killed.set()

    proxy.once_after(after_bytes, kill)
    with ThreadPoolExecutor(1) as worker:
        answer = worker.submit(work)
        assert killed.wait(60)
        cluster.start_gateway()
        return answer.result()


def test_store_killed_in_the_middle_of_an_upload_shows_nothing_and_takes_it_again(
    mortal_gateway: CephCluster, proxy: FaultProxy, store_by_proxy: S3Store, store: S3Store, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    catalog, manifest, folder = catalog_on(store_by_proxy), model_manifest(), weights(tmp_path / "model", UPLOAD_BYTES)
    proxy.once_after(UPLOAD_BYTES // 2, mortal_gateway.kill_gateway)
    with pytest.raises(UnavailableError) as caught:
        catalog.commit(manifest, folder)
    assert slug_of(caught.value) == "dependency-unavailable"
    mortal_gateway.start_gateway()
    with pytest.raises(NotFoundError):
        catalog_on(store).get("model", manifest.id)
    assert catalog_on(store).list("model", 10) == ([], None)
    assert store.list(prefix="models/") == []  # half an upload is no object
    committed = catalog.commit(manifest, folder)
    assert (catalog_on(store).fetch(committed) / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_store_restarted_in_the_middle_of_a_jobs_upload_costs_the_job_nothing(
    mortal_gateway: CephCluster, proxy: FaultProxy, store_by_proxy: S3Store, store: S3Store, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    patient = PatientStore(store_by_proxy, limit=PATIENCE)
    catalog, folder = catalog_on(patient), weights(tmp_path / "model", UPLOAD_BYTES)
    committed = survives_a_restart(mortal_gateway, proxy, lambda: catalog.commit(model_manifest(), folder), after_bytes=UPLOAD_BYTES // 2)
    assert (catalog_on(store).fetch(committed) / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_store_killed_in_the_middle_of_a_download_leaves_no_copy_and_gives_it_later(
    mortal_gateway: CephCluster, proxy: FaultProxy, store_by_proxy: S3Store, store: S3Store, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    folder = weights(tmp_path / "model", UPLOAD_BYTES)
    manifest = catalog_on(store).commit(model_manifest(), folder)
    catalog = Catalog(store_by_proxy, tmp_path / "cache")
    proxy.once_after(UPLOAD_BYTES // 2, mortal_gateway.kill_gateway)
    with pytest.raises(UnavailableError):
        catalog.fetch(manifest)
    assert list((tmp_path / "cache").rglob("weights*")) == []
    mortal_gateway.start_gateway()
    waiting = Catalog(PatientStore(store_by_proxy, limit=PATIENCE), tmp_path / "cache")
    fetched = survives_a_restart(mortal_gateway, proxy, lambda: waiting.fetch(manifest), after_bytes=UPLOAD_BYTES // 2)
    assert (fetched / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_connection_cut_again_and_again_ends_with_what_was_committed(
    proxy: FaultProxy, store_by_proxy: S3Store, store: S3Store, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    folder, cuts = weights(tmp_path / "model", UPLOAD_BYTES), iter(range(3))

    def cut() -> None:
        proxy.cut()
        if next(cuts, None) is not None:
            proxy.once_after(8 * MEBIBYTE, cut)

    proxy.once_after(8 * MEBIBYTE, cut)
    manifest = catalog_on(PatientStore(store_by_proxy, limit=PATIENCE)).commit(model_manifest(), folder)
    assert next(cuts, None) is None
    assert (catalog_on(store).fetch(manifest) / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_slow_store_is_waited_for(proxy: FaultProxy, bucket: str, catalog_on: CatalogOn, tmp_path: Path) -> None:
    folder = weights(tmp_path / "model", MEBIBYTE)
    proxy.rate = 512 * 1024
    with closing(connect(S3Server(name="slow", endpoint=proxy.endpoint), bucket)) as slow:
        manifest = catalog_on(slow).commit(model_manifest(), folder)
        assert (catalog_on(slow).fetch(manifest) / "weights.safetensors").stat().st_size == MEBIBYTE


def test_silent_store_is_unavailable_and_answers_again_when_it_moves(proxy: FaultProxy, store_by_proxy: S3Store) -> None:
    fitness = StoreFitness(store_by_proxy)
    fitness.check(writes=True)
    store_by_proxy.put(key="a", data=b"kept", if_absent=True)
    proxy.freeze()
    calls: list[Callable[[], object]] = [
        lambda: store_by_proxy.put(key="b", data=b"x", if_absent=True),
        lambda: fitness.check(writes=False),
    ]
    for call in calls:
        with pytest.raises(UnavailableError, match="does not answer"):
            call()
    proxy.thaw()
    proxy.cut()
    assert store_by_proxy.get(key="a") == b"kept"
    fitness.check(writes=False)


def test_full_store_keeps_no_one_waiting_shows_nothing_partial_and_recovers_by_itself(
    ceph_cluster: CephCluster, bucket: str, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    folder = weights(tmp_path / "model", 20 * MEBIBYTE)
    with closing(connect(ceph_cluster.server, bucket, read_seconds=2)) as store:
        catalog, fitness, refused = catalog_on(store), StoreFitness(store), model_manifest("refused")
        kept = catalog.commit(model_manifest("kept"), weights(tmp_path / "small", MEBIBYTE))
        fitness.check(writes=True)
        with ceph_cluster.full():
            with pytest.raises(UnavailableError, match="does not answer") as caught:
                catalog.commit(refused, folder)
            assert slug_of(caught.value) == "dependency-unavailable"
            with pytest.raises(UnavailableError):
                StoreFitness(store).check(writes=True)
            fitness.check(writes=False)
            with pytest.raises(NotFoundError):
                catalog_on(store).get("model", refused.id)
            assert [model.id for model in catalog_on(store).list("model", 10)[0]] == [kept.id]
            assert catalog_on(store).fetch(kept).is_dir()  # what is there is still read
        PatientStore(store, limit=PATIENCE).put(key="a", data=b"room again")
        fitness.check(writes=True)
        committed = catalog.commit(refused, folder)
        assert (catalog_on(store).fetch(committed) / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_store_over_its_quota_refuses_with_a_name_shows_nothing_partial_and_recovers_by_itself(
    ceph_cluster: CephCluster, catalog_on: CatalogOn, tmp_path: Path
) -> None:
    user = ceph_cluster.add_user(f"tenant-{tmp_path.name}")
    server = replace(ceph_cluster.server, access_key=user.access_key, secret_key=user.secret_key)
    bucket = "full-" + user.access_key[:8].lower()
    server.make_bucket(bucket)
    folder = weights(tmp_path / "model", 20 * MEBIBYTE)
    with closing(connect(server, bucket)) as store:
        catalog, fitness = catalog_on(store), StoreFitness(store)
        kept = catalog.commit(model_manifest("kept"), weights(tmp_path / "small", MEBIBYTE))
        ceph_cluster.limit_objects(user, 0)
        refused = model_manifest("refused")
        with pytest.raises(UnavailableError, match="QuotaExceeded") as caught:
            catalog.commit(refused, folder)
        assert slug_of(caught.value) == "dependency-unavailable"
        with pytest.raises(UnavailableError, match="QuotaExceeded"):
            fitness.check(writes=True)
        with pytest.raises(NotFoundError):
            catalog.get("model", refused.id)
        assert catalog.fetch(kept).is_dir()  # what is there is still read
        ceph_cluster.lift_limit(user)
        PatientStore(store, limit=PATIENCE).put(key="a", data=b"room again")
        fitness.check(writes=True)
        assert catalog.commit(refused, folder).id == refused.id


def test_credentials_that_expire_are_told_and_those_that_come_back_are_taken_without_a_restart(
    ceph_cluster: CephCluster, tmp_path: Path
) -> None:
    user = ceph_cluster.add_user(f"rotated-{tmp_path.name}")
    server = replace(ceph_cluster.server, access_key=user.access_key, secret_key=user.secret_key)
    bucket = "rotated-" + user.access_key[:8].lower()
    server.make_bucket(bucket)
    with closing(connect(server, bucket)) as store:
        fitness = StoreFitness(store)
        fitness.check(writes=True)
        store.put(key="a", data=b"kept", if_absent=True)
        ceph_cluster.administer("key", "rm", f"--uid={user.name}", "--key-type=s3", f"--access-key={user.access_key}")
        refusals: list[Callable[[], object]] = [
            lambda: store.put(key="b", data=b"x"),
            lambda: store.put(key="b", data=b"x", if_absent=True),
            lambda: store.get(key="a"),
            lambda: fitness.check(writes=False),
        ]
        for refusal in refusals:
            with pytest.raises(UnavailableError, match=r"^The object store refused the request \(\w+\)\.$") as caught:
                refusal()
            assert user.secret_key not in str(caught.value)
        ceph_cluster.administer(
            *("key", "create", f"--uid={user.name}", "--key-type=s3"),
            *(f"--access-key={user.access_key}", f"--secret-key={user.secret_key}"),
        )
        patient = PatientStore(store, limit=PATIENCE)
        assert patient.get(key="a") == b"kept"
        assert not store.exists(key="b")
        fitness.check(writes=False)


@pytest.fixture(params=["directory", "ceph"])
def open_shared(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Opens one and the same store for one service after another."""
    if request.param == "directory":
        return lambda: DirectoryStore(tmp_path / "store")
    bucket = request.getfixturevalue("bucket")
    return lambda: connect(request.getfixturevalue("ceph_server"), bucket)


def test_two_services_that_commit_one_id_leave_the_whole_work_of_one(open_shared: Callable[[], ObjectStore], catalog_on: CatalogOn) -> None:
    for round_number in range(4):
        manifest = model_manifest()
        barrier = threading.Barrier(2)

        def commit(name: str, manifest: ModelManifest = manifest, barrier: threading.Barrier = barrier) -> str | None:
            with closing(open_shared()) as store:
                catalog = catalog_on(store)
                catalog.check(writes=True)
                barrier.wait(60)
                try:
                    return catalog.commit(manifest.model_copy(update={"name": name})).name
                except AlreadyExistsError:
                    return None

        with ThreadPoolExecutor(2) as services:
            won = [name for name in services.map(commit, ("first", "second")) if name is not None]
        with closing(open_shared()) as store:
            assert [catalog_on(store).get("model", manifest.id).name] == won, round_number


def test_two_services_that_move_one_alias_leave_one_that_can_be_read(open_shared: Callable[[], ObjectStore], catalog_on: CatalogOn) -> None:
    with closing(open_shared()) as store:
        models = [catalog_on(store).commit(model_manifest()).id for _ in range(2)]

    def move(identifier: str) -> None:
        with closing(open_shared()) as store:
            for _ in range(10):
                catalog_on(store).set_alias("model", "champion", identifier)

    with ThreadPoolExecutor(2) as services:
        list(services.map(move, models))
    with closing(open_shared()) as store:
        assert catalog_on(store).get_alias("model", "champion") in models
