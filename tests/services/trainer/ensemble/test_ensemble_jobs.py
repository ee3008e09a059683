"""A training job's rounds: its shards are jobs of their own, and whatever ends in between, the model is the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch

from services.trainer import text_pretraining, training
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.ensemble_jobs import clear_away_shards
from services.trainer.ensemble.in_process import train_ensemble
from services.trainer.ensemble.move_log import MOVES_NAME
from services.trainer.skip_counts import SKIPS_NAME
from services.trainer.training_jobs import open_model, read_training_set, run_training
from services.trainer.training_spec import TrainingSpec
from shared.catalog import new_id, open_catalog
from shared.diffusion.model import Model
from shared.errors import IntegrityError, InvalidRequestError, JobCancelledError
from shared.jobs import parts
from shared.jobs.context import JobContext, JobInterruptedError
from shared.jobs.executor import EXIT_INTERRUPTED
from shared.jobs.failures import PartFailedError
from shared.jobs.ray_executor import RayExecutor
from shared.jobs.records import MAX_LOSSES, JobStore
from shared.storage import open_store
from tests.servers.ray_cluster import RayCluster
from tests.services.trainer.conftest import environment_of
from tests.services.trainer.ensemble.shards_here import KilledError, ShardsHere

if TYPE_CHECKING:
    from tests.fixtures.models import StockedHome
    from tests.services.trainer.conftest import Jobs

    MakeContext = Callable[..., JobContext]

pytestmark = pytest.mark.anyio
ROUNDS = 4


def spec(home: StockedHome, **changes: Any) -> dict[str, Any]:
    ensemble = {"kind": "iet", "shards": 2, "rounds": ROUNDS, **changes.pop("ensemble", {})}
    return {
        "name": "a", "dataset": home.dataset.id, "base": home.model.id, "steps": 16, "batch_size": 4, "seed": 5, "ensemble": ensemble,
        "checkpoint_every": 1, **changes,
    }  # fmt: skip


@contextmanager
def shards_here(executor: ShardsHere) -> Iterator[ShardsHere]:
    """Have the shards of trainings run by this executor."""
    with mock.patch.object(parts, "open_executor", return_value=executor):
        yield executor


def files(home: StockedHome, model_id: str) -> dict[str, str]:
    """Digests of what a committed model holds."""
    with open_catalog(home.settings) as catalog:
        kinds = (".safetensors", ".parquet")
        return {file.path: file.sha256 for file in catalog.get("model", model_id).files if file.path.endswith(kinds)}


def left_behind(home: StockedHome, job_id: str) -> list[str]:
    """What a job still keeps, beside what is for people to look at."""
    store = open_store(home.settings)
    return [entry.key for entry in store.list(prefix=f"checkpoints/{job_id}/") if not entry.key.endswith("/losses.json")]


def records(home: StockedHome) -> JobStore:
    return JobStore(home.settings.sql_url)


def aggressive(home: StockedHome) -> dict[str, Any]:
    """IET-AGC+ as far as a tiny training goes."""
    control = {"kind": "anti_gradient", "scale": 1.0, "decay": 0.0}
    small = {"parameters": {"kind": "bias_norm"}, "text_encoder": "frozen"}  # so are its checkpoints
    return spec(home, batch_filter=control, ensemble={"redistribute": 0.2}, captions=[{"kind": "random_caption"}], **small)


@pytest.fixture
def wishes(stocked_home: StockedHome) -> dict[str, Any]:
    return aggressive(stocked_home)


@pytest.fixture(scope="module")
def whole(tiny_home: StockedHome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a model whose training nobody disturbed."""
    home = tiny_home.copy(tmp_path_factory.mktemp("undisturbed"))
    store = JobStore.open(home.settings)
    store.create(job_id=new_id("job"), kind="training", spec=aggressive(home))
    job = store.claim(kinds=["training"], owner="test")
    assert job is not None
    with shards_here(ShardsHere(home.settings)):
        return files(home, run_training(JobContext(job=job, store=store, settings=home.settings))["model"])


def test_jobs_make_the_model_that_one_process_makes(context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any]) -> None:
    job = context("training", new_id("job"), wishes)
    with shards_here(ShardsHere(stocked_home.settings)) as executor:
        result = run_training(job)
    assert executor.submitted == [f"{job.id}-r{number}-s{shard}" for number in range(1, ROUNDS + 1) for shard in (0, 1)]
    told = TrainingSpec.model_validate(wishes)
    assert told.ensemble is not None
    losses: list[float] = []
    with open_catalog(stocked_home.settings) as catalog:
        films = read_training_set(stocked_home.dataset, catalog)
        model = open_model(told, films, stocked_home.dataset, stocked_home.model, catalog)
        outcome = train_ensemble(model, films, Recipe.of(told), told.ensemble, lambda *told: losses.append(float(told[3])))
        folder = catalog.fetch(catalog.get("model", result["model"]))
    made = Model.load(folder, key="made")
    for part in ("unet", "text_encoder", "vae"):
        expected, got = getattr(model, part).state_dict(), getattr(made, part).state_dict()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    moves = pq.read_table(folder / MOVES_NAME)
    assert [list(row.values()) for row in moves.to_pylist()] == outcome.moves_M4.tolist()
    assert moves.num_rows > 0
    assert sum(pq.read_table(folder / SKIPS_NAME)["visits"].to_pylist()) == 16 * 4
    metrics = result["metrics"]
    assert (metrics["shards"], metrics["rounds"], metrics["moved_films"]) == (2, ROUNDS, len(set(moves["record"].to_pylist())))
    assert {name: metrics[name] for name in outcome.skips.totals()} == outcome.skips.totals()
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses))


def test_everything_is_settled_and_cleared_away_in_the_end(context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any]) -> None:
    job = context("training", new_id("job"), wishes)
    reports: list[tuple[int, int, str]] = []
    with shards_here(ShardsHere(stocked_home.settings)), mock.patch.object(job, "report", lambda *told, **_values: reports.append(told)):
        run_training(job)
    assert left_behind(stocked_home, job.id) == []
    assert not list((stocked_home.folder / "trainings").iterdir())
    store = records(stocked_home)
    assert not store.list(kinds=["shard"])
    assert store.claim(kinds=["dataset", "training", "import"], owner="a runner") is None
    (curve,) = json.loads(open_store(stocked_home.settings).get(key=f"checkpoints/{job.id}/losses.json"))["curves"]
    assert (curve["phase"], curve["steps"] <= 16, curve["steps"] > 10) == ("denoiser", True, True)
    assert reports[-1] == (16, 16, "storing the model")


def test_first_phases_are_trained_once_and_shards_begin_with_them(
    context: MakeContext, stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 3)
    monkeypatch.setattr(text_pretraining, "STEPS", 2)
    plain = spec(stocked_home, base=None, steps=6) | {"ensemble": None}
    one = spec(stocked_home, base=None, steps=6, ensemble={"shards": 1, "rounds": 2})
    with shards_here(ShardsHere(stocked_home.settings)) as executor:
        made = [files(stocked_home, run_training(context("training", new_id("job"), told))["model"]) for told in (plain, one)]
    assert len(executor.submitted) == 2
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "dies",
    [
        pytest.param({"r1-s0": [1]}, id="in its first step"),
        pytest.param({"r2-s1": [4], "r4-s0": [7, 8]}, id="in the middle of rounds, once and twice"),
        pytest.param({"r1-s1": [0, 0, 2], "r3-s0": [0]}, id="at once, and then on its way"),
    ],
)
def test_shards_that_are_killed_run_again_and_the_model_is_the_same(
    context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any], whole: dict[str, str], dies: dict[str, list[int]]
) -> None:
    left = {name: list(steps) for name, steps in dies.items()}

    def next_death(job_id: str) -> int | None:
        deaths = left.get(job_id.partition("-")[2], [])
        return deaths.pop(0) if deaths else None

    with shards_here(ShardsHere(stocked_home.settings, next_death)) as executor:
        result = run_training(context("training", new_id("job"), wishes))
    assert files(stocked_home, result["model"]) == whole
    assert not any(left.values())
    assert len(executor.submitted) == 2 * ROUNDS + sum(map(len, dies.values()))


@pytest.mark.parametrize("shard", ["r1-s1", "r3-s0"])
@pytest.mark.parametrize("with_shard", [True, False], ids=["with its shard", "between shards"])
def test_training_that_is_killed_in_a_round_goes_on_and_the_model_is_the_same(
    context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any], whole: dict[str, str], shard: str, with_shard: bool
) -> None:
    job = context("training", new_id("job"), wishes)

    def dies(job_id: str) -> int | None:
        if job_id.endswith(shard) and not with_shard:
            raise KilledError
        return 6 if job_id.endswith("r3-s0") else 2 if job_id.endswith(shard) else None

    class BothDie(ShardsHere):
        def submit(self, job_id: str) -> int:
            slot = super().submit(job_id)
            if job_id.endswith(shard):
                raise KilledError
            return slot

    with shards_here(BothDie(stocked_home.settings, dies)) as first, pytest.raises(KilledError):
        run_training(job)
    with shards_here(ShardsHere(stocked_home.settings)) as second:
        result = run_training(job)
    assert files(stocked_home, result["model"]) == whole
    done = set(first.submitted) - {f"{job.id}-{shard}"}
    assert not done & set(second.submitted)
    assert left_behind(stocked_home, job.id) == []


def test_shard_that_was_interrupted_loses_nothing(
    context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any], whole: dict[str, str]
) -> None:
    job = context("training", new_id("job"), wishes)
    interruptions = iter([True] * (MAX_LOSSES + 1))

    class Interrupted(ShardsHere):
        def _run(self, job_id: str, dies_at: int | None) -> int:
            return EXIT_INTERRUPTED if next(interruptions, False) else super()._run(job_id, dies_at)

    with shards_here(Interrupted(stocked_home.settings)):
        assert files(stocked_home, run_training(job)["model"]) == whole


@pytest.mark.parametrize("asked", ["release", "claim_this"])
def test_shard_that_an_older_attempt_settles_just_now_is_looked_at_again(
    context: MakeContext, stocked_home: StockedHome, asked: str
) -> None:
    """The training's last process died, and a shard's did not: it fails in the moment in which its job is to be taken back."""
    job = context("training", new_id("job"), spec(stocked_home))
    shard, store = f"{job.id}-r1-s1", records(stocked_home)
    store.create(job_id=shard, kind="shard", spec={"training": job.id})
    if asked == "release":
        store.claim_this(shard, owner="an older attempt")
    ask = getattr(JobStore, asked)

    def too_late(self: JobStore, *told: Any, **named: Any) -> Any:
        if shard in (*told, named.get("job_id")):
            if asked == "claim_this":
                ask(store, shard, owner="an older attempt")
            store.fail(job_id=shard, attempt=1, problem={"title": "Broken", "status": 500, "detail": "it broke"})
        return ask(self, *told, **named)

    with (
        shards_here(ShardsHere(stocked_home.settings)) as executor,
        mock.patch.object(JobStore, asked, too_late),
        pytest.raises(PartFailedError, match="shard 1 in round 1: it broke"),
    ):
        run_training(job)
    assert executor.submitted == []


def test_shard_that_is_lost_again_and_again_fails_the_training(context: MakeContext, stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home))
    with shards_here(ShardsHere(stocked_home.settings, lambda job_id: 0 if job_id.endswith("r2-s1") else None)) as executor:
        with pytest.raises(PartFailedError, match="shard 1 in round 2: The process that ran this job ended 3 times") as caught:
            run_training(job)
        assert executor.submitted.count(f"{job.id}-r2-s1") == MAX_LOSSES
    assert caught.value.problem["type"] == "urn:lethe:problem:internal"
    assert {shard.state for shard in records(stocked_home).list(kinds=["shard"])} == {"succeeded", "failed"}
    assert not [key for key in left_behind(stocked_home, job.id) if "/shards/" in key]


def test_shard_that_fails_with_a_problem_fails_the_training_with_it(context: MakeContext, stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home, learning_rate=1.0, steps=64, weight_decay=0.0))
    diverged = mock.patch("services.trainer.training_progress.math.isfinite", return_value=False)
    with shards_here(ShardsHere(stocked_home.settings)), diverged, pytest.raises(PartFailedError) as caught:
        run_training(job)
    assert caught.value.problem["status"] == 422
    assert caught.value.problem["errors"][0]["loc"] == ["body", "learning_rate"]
    assert "shard 0 in round 1: The training diverged" in caught.value.problem["detail"]
    assert records(stocked_home).unsettled(kinds=["shard"]) == []  # the second one was claimed, and did not run


def test_cancellation_cancels_the_shards_and_removes_what_they_kept(context: MakeContext, stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home))

    class Cancels(ShardsHere):
        def submit(self, job_id: str) -> int:
            if job_id.endswith("r2-s1"):
                job._cancelled.set()
            return super().submit(job_id)

    with shards_here(Cancels(stocked_home.settings)) as executor, pytest.raises(JobCancelledError):
        run_training(job)
    assert left_behind(stocked_home, job.id) == []
    assert not records(stocked_home).list(kinds=["shard"])
    assert executor.submitted == [f"{job.id}-{name}" for name in ("r1-s0", "r1-s1", "r2-s0", "r2-s1")]


def test_interruption_leaves_the_shards_for_the_next_attempt(
    context: MakeContext, stocked_home: StockedHome, wishes: dict[str, Any], whole: dict[str, str]
) -> None:
    job = context("training", new_id("job"), wishes)

    class Stops(ShardsHere):
        def submit(self, job_id: str) -> int:
            slot = super().submit(job_id)
            if job_id.endswith("r2-s0"):
                job.interrupt()
            return slot

    with shards_here(Stops(stocked_home.settings)), pytest.raises(JobInterruptedError):
        run_training(job)
    assert [shard.state for shard in records(stocked_home).unsettled(kinds=["shard"])] == ["running"]  # claimed, and not begun
    assert left_behind(stocked_home, job.id)
    job._interrupted.clear()
    with shards_here(ShardsHere(stocked_home.settings)) as executor:
        assert files(stocked_home, run_training(job)["model"]) == whole
    assert executor.submitted[0] == f"{job.id}-r2-s1"


def test_state_that_is_gone_is_told_and_not_made_up(context: MakeContext, stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home))
    store = open_store(stocked_home.settings)

    class Loses(ShardsHere):
        def submit(self, job_id: str) -> int:
            slot = super().submit(job_id)
            if job_id.endswith("r2-s1"):
                store.delete(key=f"checkpoints/{job.id}/shards/0/4/manifest.json")
            return slot

    with shards_here(Loses(stocked_home.settings)), pytest.raises(IntegrityError, match="shard 0 after round 2"):
        run_training(job)


def test_more_shards_than_patients_are_refused_before_the_first_step(context: MakeContext, stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home, steps=256, ensemble={"shards": 64, "rounds": 2}))
    with shards_here(ShardsHere(stocked_home.settings)) as executor, pytest.raises(InvalidRequestError) as caught:
        run_training(job)
    assert caught.value.field == "ensemble.shards"
    assert executor.submitted == []


@pytest.mark.slow
async def test_killed_process_of_parallel_shards_ends_with_the_model_of_shards_in_turn(
    jobs: Jobs, context: MakeContext, stocked_home: StockedHome
) -> None:
    """Real processes: the training's is killed while both shards are in the second of two rounds, and they with it."""
    small = {"parameters": {"kind": "bias_norm"}, "text_encoder": "frozen", "steps": 240, "checkpoint_every": 10}
    in_turn = context("training", new_id("job"), spec(stocked_home, ensemble={"rounds": 2}, **small))
    with shards_here(ShardsHere(stocked_home.settings)):
        whole = files(stocked_home, run_training(in_turn)["model"])
    job_id = jobs.create("training", spec(stocked_home, ensemble={"rounds": 2, "parallel": 2}, **small))
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.message == "round 2 of 2, shards 0-1" and job.step >= 122)
        shards = [jobs.store.get(f"{job_id}-r2-s{shard}") for shard in (0, 1)]
        assert {shard.state for shard in shards} == {"running"}
        os.kill(jobs.process_of(job_id), signal.SIGKILL)
        await jobs.until(job_id, lambda _job: all(jobs.store.get(shard.id).attempt == 2 for shard in shards))
        assert [jobs.store.get(f"{job_id}-r1-s{shard}").attempt for shard in (0, 1)] == [1, 1]
        job = await jobs.settled(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2), job.problem
    assert files(stocked_home, job.result["model"] if job.result else "") == whole
    assert left_behind(stocked_home, job_id) == []
    assert "loss" in job.reported


@pytest.mark.slow
async def test_running_shards_stop_within_a_step_of_a_cancellation(jobs: Jobs, stocked_home: StockedHome) -> None:
    job_id = jobs.create("training", spec(stocked_home, steps=200_000, ensemble={"rounds": 2}))
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.message == "round 1 of 2, shard 0")
        jobs.store.request_cancel(job_id)
        await jobs.until(job_id, lambda _job: jobs.store.get(f"{job_id}-r1-s0").is_settled)  # its record is there while its process ends
        shard = jobs.store.get(f"{job_id}-r1-s0")
        job = await jobs.settled(job_id)
    assert (shard.state, shard.message) == ("cancelled", "training the denoiser")  # by itself, and so without a last checkpoint
    assert job.state == "cancelled"
    assert not jobs.store.list(kinds=["shard"])
    assert left_behind(stocked_home, job_id) == []


@pytest.mark.server
@pytest.mark.slow
async def test_shards_on_nodes_of_a_cluster_make_the_same_model(jobs: Jobs, context: MakeContext, stocked_home: StockedHome) -> None:
    """Three nodes that know the home: one for the training's process, two for its shards."""
    small = {"parameters": {"kind": "bias_norm"}, "text_encoder": "frozen"}
    in_turn = context("training", new_id("job"), spec(stocked_home, ensemble={"rounds": 2}, **small))
    with shards_here(ShardsHere(stocked_home.settings)):
        whole = files(stocked_home, run_training(in_turn)["model"])
    cluster = RayCluster(environment_of(stocked_home))
    cluster.environment |= {"LETHE_RAY_ADDRESS": cluster.address, "LETHE_RAY_TOKEN_FILE": str(cluster.token_file)}
    cluster.start(nodes=3)
    try:
        jobs.executor = RayExecutor(address=cluster.address, token_file=cluster.token_file, worker_module="services.trainer.worker")  # type: ignore[assignment]
        job_id = jobs.create("training", spec(stocked_home, ensemble={"rounds": 2, "parallel": 2}, **small))
        async with jobs.running():
            job = await jobs.settled(job_id)
    finally:
        cluster.remove()
    assert job.state == "succeeded", job.problem
    assert files(stocked_home, job.result["model"] if job.result else "") == whole
    assert {"round 1 of 2, shards 0-1", "round 2 of 2, shards 0-1"} <= set(jobs.messages(job_id))


def test_shards_of_another_training_are_left_alone(stocked_home: StockedHome) -> None:
    store, kept = JobStore.open(stocked_home.settings), open_store(stocked_home.settings)
    for training_id in ("job_1", "job_10"):
        for shard in (0, 1):
            store.create(job_id=f"{training_id}-r1-s{shard}", kind="shard", spec={"training": training_id})
        store.claim_this(f"{training_id}-r1-s0", owner="test")
        for number in range(3):
            kept.put(key=f"checkpoints/{training_id}/shards/0/{number}/facts.json", data=b"{}")
        kept.put(key=f"checkpoints/{training_id}/5/facts.json", data=b"{}")
    clear_away_shards(store, kept, {"job_1": False})
    assert {job.id: job.state for job in store.list(kinds=["shard"])} == {
        "job_1-r1-s0": "cancelled",
        "job_1-r1-s1": "cancelled",
        "job_10-r1-s0": "running",
        "job_10-r1-s1": "queued",
    }
    assert [entry.key for entry in kept.list(prefix="checkpoints/job_1/")] == ["checkpoints/job_1/5/facts.json"]
    assert len(kept.list(prefix="checkpoints/job_10/")) == 4
    clear_away_shards(store, kept, {"job_1": True})
    assert {job.id for job in store.list(kinds=["shard"])} == {"job_10-r1-s0", "job_10-r1-s1"}
