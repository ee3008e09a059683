"""Operations in process: envelope, keys, pages, cancel."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shared.http.operations import rfc3339

pytestmark = pytest.mark.anyio
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


async def create(service: Any, *, key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await service.client.post("/v1/things", json={"prompt": "p"} | body, headers=headers)


async def test_creating_answers_202_with_the_place_to_ask(service: Any) -> None:
    response = await create(service)
    assert response.status_code == 202
    assert response.headers["location"] == "/v1/things/thing_1"
    assert response.headers["retry-after"] == "1"
    answer = response.json()
    assert re.fullmatch(MOMENT, answer.pop("created"))
    assert re.fullmatch(MOMENT, answer.pop("updated"))
    assert answer == {
        "id": "thing_1",
        "kind": "steps",
        "state": "queued",
        "progress": {"step": 0, "total": 0, "message": "", "values": {}},
        "result": None,
        "error": None,
    }
    assert (await service.client.get(response.headers["location"])).json() == response.json()


async def test_job_carries_the_trace_of_its_request(service: Any) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await service.client.post("/v1/things", json={"prompt": "p"}, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert service.state.jobs.get("thing_1").trace_id == trace


async def test_succeeded_operation_shows_result_and_what_the_service_adds(service: Any) -> None:
    await create(service)
    service.state.jobs.claim(kinds=["steps"], owner="test")
    service.state.jobs.succeed(job_id="thing_1", attempt=1, result={"dataset": "thing_1"})
    answer = (await service.client.get("/v1/things/thing_1")).json()
    assert (answer["state"], answer["result"], answer["films"]) == ("succeeded", {"dataset": "thing_1"}, 12)


async def test_failed_operation_is_fetched_with_200_and_shows_its_problem(service: Any) -> None:
    await create(service)
    service.state.jobs.claim(kinds=["steps"], owner="test")
    service.state.jobs.fail(job_id="thing_1", attempt=1, problem={"type": "urn:lethe:problem:validation", "status": 422})
    response = await service.client.get("/v1/things/thing_1")
    assert (response.status_code, response.json()["error"]) == (200, {"type": "urn:lethe:problem:validation", "status": 422})


async def test_unknown_operation_is_named_and_one_of_another_kind_is_not_shown(service: Any) -> None:
    service.state.jobs.create(job_id="job_other", kind="quick", spec={})
    for name in ("thing_9", "job_other"):
        for method, path in [
            ("GET", f"/v1/things/{name}"),
            ("GET", f"/v1/things/{name}/events"),
            ("POST", f"/v1/things/{name}/cancel"),
            ("POST", f"/v1/things/{name}/retry"),
        ]:
            response = await service.client.request(method, path)
            assert response.status_code == 404
            assert response.json()["detail"] == f"There is no '{name}' among the things."


async def test_resource_without_a_record_is_shown_from_elsewhere(service: Any) -> None:
    assert (await service.client.get("/v1/things/kept_1")).json() == {"id": "kept_1", "kept": True}


async def test_retry_clones_inputs(service: Any) -> None:
    await create(service, steps=7)
    service.state.jobs.claim(kinds=["steps"], owner="test")
    service.state.jobs.fail(job_id="thing_1", attempt=1, problem={"status": 422})
    before = service.state.jobs.get("thing_1")
    response = await service.client.post("/v1/things/thing_1/retry")
    answer = response.json()
    assert (response.status_code, response.headers["location"]) == (202, f"/v1/things/{answer['id']}")
    assert answer["id"].startswith("thing_")
    assert (answer["state"], answer["error"], answer["progress"]["step"]) == ("queued", None, 0)
    clone = service.state.jobs.get(answer["id"])
    assert (clone.spec, clone.spec_digest, clone.attempt, clone.losses) == (before.spec, before.spec_digest, 0, 0)
    assert clone.trace_id not in {None, before.trace_id}
    assert service.state.jobs.get("thing_1") == before


async def test_retry_with_a_key_makes_one_job(service: Any) -> None:
    await create(service)
    service.state.jobs.request_cancel("thing_1")
    answers = [(await service.client.post("/v1/things/thing_1/retry", headers={"Idempotency-Key": "k"})).json() for _ in range(2)]
    assert answers[0]["id"] == answers[1]["id"] != "thing_1"
    assert len(service.state.jobs.list(kinds=["steps"])) == 2


async def test_what_is_under_way_or_succeeded_is_not_retried(service: Any) -> None:
    await create(service)
    for settle in (lambda: None, lambda: service.state.jobs.claim(kinds=["steps"], owner="test")):
        settle()
        response = await service.client.post("/v1/things/thing_1/retry")
        assert (response.status_code, response.json()["type"]) == (409, "urn:lethe:problem:state-conflict")
    service.state.jobs.succeed(job_id="thing_1", attempt=1, result={})
    assert "thing_1 is succeeded" in (await service.client.post("/v1/things/thing_1/retry")).json()["detail"]
    assert len(service.state.jobs.list(kinds=["steps"])) == 1


async def test_cancel_is_idempotent_and_touches_one(service: Any) -> None:
    await create(service)
    await create(service)
    for _ in range(2):
        response = await service.client.post("/v1/things/thing_1/cancel")
        assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert (await service.client.get("/v1/things/thing_2")).json()["state"] == "queued"


async def test_list_pages_newest_first_until_the_token_is_absent(service: Any) -> None:
    for _ in range(5):
        await create(service)
    seen, query = [], "page_size=2"
    for _ in range(3):
        page = (await service.client.get(f"/v1/things?{query}")).json()
        seen.append([item["id"] for item in page["items"]])
        query = f"page_size=2&page_token={page.get('next_page_token')}"
    assert seen == [["thing_5", "thing_4"], ["thing_3", "thing_2"], ["thing_1"]]
    assert "next_page_token" not in page


async def test_page_token_of_nobody_is_malformed(service: Any) -> None:
    response = await service.client.get("/v1/things?page_token=abc")
    assert (response.status_code, response.json()["type"]) == (400, "urn:lethe:problem:malformed-request")


async def test_same_key_and_body_replay_the_first_answer(service: Any) -> None:
    first = await create(service, key="k1", steps=5)
    service.state.jobs.request_cancel("thing_1")
    again = await create(service, key="k1", steps=5)
    assert (again.status_code, again.json(), again.headers["location"]) == (202, first.json(), "/v1/things/thing_1")
    assert len(service.state.jobs.list(kinds=["steps"])) == 1


async def test_same_key_with_another_body_is_refused(service: Any) -> None:
    await create(service, key="k1", steps=5)
    response = await create(service, key="k1", steps=6)
    assert (response.status_code, response.json()["type"]) == (409, "urn:lethe:problem:idempotency-key-reused")


async def test_other_key_makes_another_job(service: Any) -> None:
    assert (await create(service, key="k1")).json()["id"] != (await create(service, key="k2")).json()["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
async def test_unreadable_key_is_malformed(service: Any, key: str) -> None:
    response = await create(service, key=key)
    assert (response.status_code, response.json()["type"]) == (400, "urn:lethe:problem:malformed-request")


def test_moment_is_told_in_utc() -> None:
    there = timezone(timedelta(hours=2))
    assert rfc3339(datetime(2026, 11, 22, 1, 2, 3, tzinfo=there)) == "2026-11-21T23:02:03.000000Z"
    assert rfc3339(datetime(2026, 11, 22, 1, 2, 3, 45, tzinfo=UTC)) == "2026-11-22T01:02:03.000045Z"
