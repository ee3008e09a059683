"""Job records: claimed once, fenced by attempt, settled once, listed and streamed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from shared.errors import AlreadyExistsError, NotFoundError, SaturatedError, UnavailableError
from shared.jobs import records
from shared.jobs.idempotency import IdempotencyKey, IdempotencyKeyReusedError
from shared.jobs.leases import new_owner
from shared.jobs.records import EVENTS_KEPT, Job, JobStore
from shared.jobs.tables import IDEMPOTENCY
from shared.settings import Settings
from shared.telemetry import get_logger
from tests.servers.processes import free_port

KINDS = ["quick"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What holds of job records holds in every database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'lethe.db'}"
    url: str = request.getfixturevalue("postgres_server").new_database()
    return url


def queue(store: JobStore, *job_ids: str, kind: str = "quick") -> None:
    for job_id in job_ids:
        store.create(job_id=job_id, kind=kind, spec={"n": 1})


def claimed(store: JobStore, *, owner: str = "me") -> Job:
    job = store.claim(kinds=KINDS, owner=owner)
    assert job is not None
    return job


def event_names(store: JobStore, job_id: str) -> list[str]:
    return [event.name for event in store.events_since(job_id)]


def test_new_job_is_queued_with_its_spec_and_trace(store: JobStore) -> None:
    made = store.create(job_id="job_1", kind="quick", spec={"prompt": "p"}, trace_id="t" * 32)
    assert made == store.get("job_1")
    assert (made.state, made.attempt, made.spec, made.trace_id, made.step, made.result) == ("queued", 0, {"prompt": "p"}, "t" * 32, 0, None)
    assert len(made.spec_digest) == 64
    assert made.created == made.updated
    assert event_names(store, "job_1") == ["state"]


def test_same_id_again_is_refused(store: JobStore) -> None:
    queue(store, "job_1")
    with pytest.raises(AlreadyExistsError, match="job_1"):
        queue(store, "job_1")


def test_unknown_job_is_named(store: JobStore) -> None:
    with pytest.raises(NotFoundError, match="job_9"):
        store.get("job_9")
    with pytest.raises(NotFoundError):
        store.get("job_\0")


def test_full_queue_refuses_at_once(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_QUEUED", 2)
    queue(store, "job_1", "job_2")
    queue(store, "other", kind="steps")
    with pytest.raises(SaturatedError):
        queue(store, "job_3")


def test_claim_takes_the_oldest_of_its_kinds_once(store: JobStore) -> None:
    queue(store, "other", kind="steps")
    queue(store, "job_b", "job_a")
    first = claimed(store)
    assert (first.id, first.state, first.attempt, first.lease_owner) == ("job_b", "running", 1, "me")
    assert claimed(store).id == "job_a"
    assert store.claim(kinds=KINDS, owner="me") is None


def test_one_job_is_claimed_by_its_id_while_it_is_queued(store: JobStore) -> None:
    for job_id in ("job_1", "job_2"):
        store.create(job_id=job_id, kind="work", spec={})
    taken = store.claim_this("job_2", owner="me")
    assert taken is not None
    assert (taken.id, taken.state, taken.attempt, taken.lease_owner) == ("job_2", "running", 1, "me")
    assert store.claim_this("job_2", owner="other") is None
    assert store.claim_this("job_3", owner="me") is None
    assert store.get("job_1").state == "queued"


def test_unsettled_jobs_are_those_that_wait_or_run(store: JobStore) -> None:
    for number in range(1, 5):
        store.create(job_id=f"job_{number}", kind="work", spec={})
    store.create(job_id="job_5", kind="other", spec={})
    store.claim_this("job_1", owner="me")
    store.claim_this("job_2", owner="me")
    store.succeed(job_id="job_2", attempt=1, result={})
    store.request_cancel("job_3")
    assert [(job.id, job.state) for job in store.unsettled(kinds=["work"])] == [("job_1", "running"), ("job_4", "queued")]


def test_settled_jobs_are_forgotten_by_kind_and_beginning_of_their_ids_with_their_events(store: JobStore) -> None:
    for job_id, kind in (
        ("job_1-a", "part"),
        ("job_1-b", "part"),
        ("job_1-c", "part"),
        ("job_10-a", "part"),
        ("jobX1-a", "part"),
        ("job_1-d", "whole"),
    ):
        store.create(job_id=job_id, kind=kind, spec={})
    for job_id in ("job_1-a", "job_10-a", "jobX1-a", "job_1-d"):
        store.request_cancel(job_id)
    store.claim_this("job_1-b", owner="me")
    store.forget_settled(kind="part", prefixes=[])
    assert [job.id for job in store.beginning_with("job_1-", kind="part")] == ["job_1-a", "job_1-b", "job_1-c"]
    store.forget_settled(kind="part", prefixes=["job_1-"])
    assert {job.id: job.state for job in store.list(kinds=["part", "whole"])} == {
        "job_1-b": "running",
        "job_1-c": "queued",
        "job_10-a": "cancelled",
        "jobX1-a": "cancelled",
        "job_1-d": "cancelled",
    }
    assert event_names(store, "job_1-a") == []
    assert event_names(store, "job_10-a") == ["state", "end"]


def test_many_claimers_never_get_one_job_twice(database_url: str, store: JobStore) -> None:
    queue(store, *(f"job_{number:02}" for number in range(20)))
    taken: list[str] = []

    def claim_all() -> None:
        own = JobStore(database_url)
        while (job := own.claim(kinds=KINDS, owner="someone")) is not None:
            taken.append(job.id)
        own.close()

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"job_{number:02}" for number in range(20)]


def test_report_and_success_reach_the_record_and_its_events(store: JobStore) -> None:
    queue(store, "job_1")
    job = claimed(store)
    assert store.report(job_id="job_1", attempt=1, step=3, total=10, message="training", reported={"loss": 0.25}) is not None
    assert store.succeed(job_id="job_1", attempt=1, result={"model": "mdl_1"})
    done = store.get("job_1")
    assert (done.state, done.step, done.total, done.message, done.reported) == ("succeeded", 3, 10, "training", {"loss": 0.25})
    assert (done.result, done.lease_owner, done.lease_expires) == ({"model": "mdl_1"}, None, None)
    assert done.ended is not None
    assert done.ended >= job.created
    events = store.events_since("job_1")
    assert [(event.sequence, event.name) for event in events] == [(1, "state"), (2, "state"), (3, "progress"), (4, "end")]
    assert events[2].data == {
        "state": "running",
        "attempt": 1,
        "progress": {"step": 3, "total": 10, "message": "training", "values": {"loss": 0.25}},
    }


def test_settled_job_takes_no_more_writes(store: JobStore) -> None:
    queue(store, "job_1")
    claimed(store)
    assert store.fail(job_id="job_1", attempt=1, problem={"status": 422})
    assert store.report(job_id="job_1", attempt=1, step=1, total=1, message="", reported={}) is None
    assert not store.succeed(job_id="job_1", attempt=1, result={})
    assert not store.cancelled(job_id="job_1", attempt=1)
    assert store.request_cancel("job_1").state == "failed"
    assert store.get("job_1").problem == {"status": 422}


def test_writes_of_an_earlier_attempt_are_dropped(store: JobStore) -> None:
    queue(store, "job_1")
    claimed(store)
    assert store.release(job_id="job_1", attempt=1, lost=True) is not None
    assert claimed(store, owner="other").attempt == 2
    assert store.report(job_id="job_1", attempt=1, step=9, total=9, message="stale", reported={}) is None
    assert not store.succeed(job_id="job_1", attempt=1, result={"stale": True})
    assert store.get("job_1").state == "running"


def test_heartbeat_renews_only_what_the_owner_holds(store: JobStore) -> None:
    queue(store, "job_1", "job_2")
    mine, other = claimed(store), claimed(store, owner="other")
    held = store.heartbeat(owner="me", job_ids=[mine.id, other.id], lease=timedelta(minutes=5))
    assert [job.id for job in held] == ["job_1"]
    assert held[0].lease_expires is not None
    assert mine.lease_expires is not None
    assert held[0].lease_expires - mine.lease_expires > timedelta(minutes=4)
    assert store.get("job_2").lease_expires == other.lease_expires


def test_expired_lease_is_taken_back_and_counted(store: JobStore) -> None:
    queue(store, "job_1")
    store.claim(kinds=KINDS, owner=new_owner(), lease=timedelta(seconds=-1))
    (job,) = store.requeue_lost(kinds=KINDS)
    assert (job.id, job.state, job.losses, job.lease_owner) == ("job_1", "queued", 1, None)


def test_living_lease_is_left_alone(store: JobStore) -> None:
    queue(store, "job_1")
    store.claim(kinds=KINDS, owner=new_owner())
    assert store.requeue_lost(kinds=KINDS) == []


def test_lease_renewed_in_between_is_not_taken_back(store: JobStore) -> None:
    queue(store, "job_1")
    seen = store.claim(kinds=KINDS, owner="me", lease=timedelta(seconds=-1))
    assert seen is not None
    store.heartbeat(owner="me", job_ids=["job_1"])
    assert store.release(job_id="job_1", attempt=1, lost=True, lease_expires=seen.lease_expires) is None


def test_lease_renewed_while_it_is_taken_back_stays_with_its_owner(store: JobStore, database_url: str) -> None:
    """Of a sweep and a heartbeat at the same moment one waits for the other: a job is renewed or taken back, never both."""
    other = JobStore(database_url)
    for number in range(20):
        job_id = f"job_{number}"
        queue(store, job_id)
        seen = store.claim(kinds=KINDS, owner="me", lease=timedelta(seconds=-1))
        assert seen is not None
        renewed: list[Job] = []
        beat = threading.Thread(target=lambda job_id=job_id, renewed=renewed: renewed.extend(store.heartbeat(owner="me", job_ids=[job_id])))
        beat.start()
        taken = other.release(job_id=job_id, attempt=1, lost=True, lease_expires=seen.lease_expires)
        beat.join()
        assert (taken is None) == bool(renewed)
        other.request_cancel(job_id)
    other.close()


def test_third_loss_fails_the_job_with_a_problem(store: JobStore) -> None:
    queue(store, "job_1")
    states = []
    for attempt in (1, 2, 3):
        claimed(store)
        released = store.release(job_id="job_1", attempt=attempt, lost=True)
        assert released is not None
        states.append(released.state)
    assert states == ["queued", "queued", "failed"]
    problem = store.get("job_1").problem
    assert problem is not None
    assert problem["type"] == "urn:lethe:problem:internal"
    assert event_names(store, "job_1")[-1] == "end"


def test_losses_before_progress_that_was_kept_are_forgotten(store: JobStore) -> None:
    queue(store, "job_1")
    for _ in range(2):
        store.release(job_id="job_1", attempt=claimed(store).attempt, lost=True)
    job = claimed(store)
    store.forget_losses(job_id="job_1", attempt=job.attempt - 1)  # an attempt that no longer holds the job
    assert store.get("job_1").losses == 2
    store.forget_losses(job_id="job_1", attempt=job.attempt)
    store.release(job_id="job_1", attempt=job.attempt, lost=True)
    assert (store.get("job_1").state, store.get("job_1").losses) == ("queued", 1)


def test_interruptions_are_no_losses(store: JobStore) -> None:
    queue(store, "job_1")
    for attempt in range(1, 6):
        claimed(store)
        assert store.release(job_id="job_1", attempt=attempt, lost=False) is not None
    assert (store.get("job_1").state, store.get("job_1").losses) == ("queued", 0)


def test_cancel_of_a_queued_job_ends_it_and_leaves_the_running_one_alone(store: JobStore) -> None:
    queue(store, "job_1", "job_2")
    claimed(store)
    assert store.request_cancel("job_2").state == "cancelled"
    assert store.request_cancel("job_2").state == "cancelled"
    running = store.get("job_1")
    assert (running.state, running.cancel_requested) == ("running", False)
    assert event_names(store, "job_2") == ["state", "end"]


def test_cancel_of_a_running_job_asks_once_and_a_loss_then_settles_it(store: JobStore) -> None:
    queue(store, "job_1")
    claimed(store)
    assert store.request_cancel("job_1").cancel_requested
    store.request_cancel("job_1")
    assert event_names(store, "job_1") == ["state", "state", "state"]
    released = store.release(job_id="job_1", attempt=1, lost=True)
    assert released is not None
    assert released.state == "cancelled"


def test_cancel_of_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(NotFoundError):
        store.request_cancel("job_9")


def test_list_goes_newest_first_through_pages_of_its_kinds(store: JobStore) -> None:
    queue(store, *(f"job_{number}" for number in range(5)))
    queue(store, "other", kind="steps")
    first = store.list(kinds=KINDS, page_size=2)
    second = store.list(kinds=KINDS, page_size=2, before=first[-1].id)
    third = store.list(kinds=KINDS, page_size=2, before=second[-1].id)
    assert [[job.id for job in page] for page in (first, second, third)] == [["job_4", "job_3"], ["job_2", "job_1"], ["job_0"]]
    with pytest.raises(NotFoundError):
        store.list(kinds=KINDS, before="job_9")


def test_event_buffer_is_bounded_and_keeps_the_newest(store: JobStore) -> None:
    queue(store, "job_1")
    claimed(store)
    for step in range(EVENTS_KEPT + 10):
        store.report(job_id="job_1", attempt=1, step=step, total=0, message="", reported={})
    events = store.events_since("job_1")
    assert len(events) == EVENTS_KEPT
    assert events[-1].sequence == EVENTS_KEPT + 12
    assert events[0].sequence == 13
    assert [event.sequence for event in store.events_since("job_1", EVENTS_KEPT + 10)] == [EVENTS_KEPT + 11, EVENTS_KEPT + 12]


def test_counts_tell_states_and_the_oldest_queued(store: JobStore) -> None:
    queue(store, "job_1", "job_2", "job_3")
    claimed(store)
    counts = store.counts(KINDS)
    assert counts.by_kind_and_state == {("quick", "queued"): 2, ("quick", "running"): 1}
    assert counts.oldest_queued == {"quick": store.get("job_2").created}


def once(store: JobStore, job_id: str, *, key: str = "k", fingerprint: str = "f") -> dict[str, Any]:
    return store.create_once(
        job_id=job_id,
        kind="quick",
        spec={},
        trace_id=None,
        idempotency=IdempotencyKey(holder="somebody", scope="POST /v1/things", key=key, fingerprint=fingerprint),
        response_of=lambda job: {"id": job.id, "state": job.state},
    )


def test_key_with_the_same_body_replays_the_first_response(store: JobStore) -> None:
    first = once(store, "job_1")
    claimed(store)
    assert once(store, "job_2") == first == {"id": "job_1", "state": "queued"}
    assert [job.id for job in store.list(kinds=KINDS)] == ["job_1"]


def test_key_with_another_body_is_refused(store: JobStore) -> None:
    once(store, "job_1")
    with pytest.raises(IdempotencyKeyReusedError):
        once(store, "job_2", fingerprint="g")


def test_one_key_used_at_once_makes_one_job(store: JobStore) -> None:
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda n=number: answers.append(once(store, f"job_{n}"))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len({answer["id"] for answer in answers}) == 1
    assert len(store.list(kinds=KINDS)) == 1


def test_key_past_its_time_is_forgotten(store: JobStore) -> None:
    once(store, "job_1")
    with store._database.writing() as connection:
        connection.execute(update(IDEMPOTENCY).values(created=store.get("job_1").created - timedelta(hours=49)))
    assert once(store, "job_2") == {"id": "job_2", "state": "queued"}


def test_records_survive_a_restart(database_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr(database_url))
    first = JobStore.open(settings)
    first.prepare()
    queue(first, "job_1")
    first.close()
    second = JobStore.open(settings)
    assert second.get("job_1").state == "queued"
    second.close()


def test_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "lethe.db").mkdir()
    store = JobStore(f"sqlite:///{tmp_path / 'lethe.db'}")
    with pytest.raises(UnavailableError):
        store.ping()
    store.close()


def test_server_that_is_away_is_unavailable_and_its_password_stays_out_of_the_log(logged: Callable[[], str]) -> None:
    store = JobStore(f"postgresql://lethe:open-sesame@127.0.0.1:{free_port()}/lethe")
    with pytest.raises(UnavailableError) as caught:
        store.ping()
    get_logger("test").warning("away", exc_info=caught.value)
    assert "sqlalchemy.exc.OperationalError" in logged()
    assert "open-sesame" not in logged() + "".join(format_exception(caught.value))
    store.close()


def test_ping_of_a_working_database_is_silent(store: JobStore) -> None:
    store.ping()
