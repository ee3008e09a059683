"""Errors over HTTP: the right problem, and never a word of what the caller sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
CANARY = "canary prompt 9d41 of a patient"
JSON = {"Content-Type": "application/json"}


def slug(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert len(problem["trace_id"]) == 32
    return str(problem["type"]).removeprefix("urn:lethe:problem:")


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("DatasetError", 422, "validation"),
        ("ForbiddenError", 403, "forbidden"),
        ("NotFoundError", 404, "not-found"),
        ("AlreadyExistsError", 409, "state-conflict"),
        ("PayloadTooLargeError", 413, "payload-too-large"),
        ("IntegrityError", 500, "integrity-failed"),
        ("UnavailableError", 503, "dependency-unavailable"),
        ("ScreenerUnavailableError", 503, "screener-unavailable"),
        ("SaturatedError", 503, "saturated"),
    ],
)
async def test_error_of_the_tree_answers_its_problem(service: Any, name: str, status: int, expected: str) -> None:
    response = await service.client.post("/v1/raise", json={"error": name, "text": "There is no model mdl_1."})
    assert (response.status_code, slug(response)) == (status, expected)
    assert response.json()["detail"] == "There is no model mdl_1."
    assert response.json()["instance"] == "/v1/raise"
    assert response.headers.get("retry-after") == ("5" if status == 503 else None)


async def test_rule_broken_in_a_field_names_the_field(service: Any) -> None:
    response = await service.client.post("/v1/raise", json={"error": "InvalidRequestError", "text": ""})
    assert slug(response) == "validation"
    assert response.json()["errors"][0]["loc"] == ["body", "prompts", "0"]
    assert "77" in response.json()["detail"]


async def test_insufficient_mitigation_answers_its_evidence(service: Any) -> None:
    response = await service.client.post("/v1/raise", json={"error": "MitigationInsufficientError", "text": ""})
    assert (response.status_code, slug(response)) == (409, "mitigation-insufficient")
    assert response.json()["evidence"] == [{"strategy": "auto", "score_after": 2.5}]


async def test_defect_tells_the_trace_id_only(service: Any, logged: Callable[[], str]) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    response = await service.client.post("/v1/raise", json={"error": "none", "text": CANARY}, headers=headers)
    assert (response.status_code, slug(response)) == (500, "internal")
    assert response.json()["trace_id"] == trace
    assert "detail" not in response.json()
    logs = logged()
    told = next(line for line in map(json.loads, logs.splitlines()) if "exception" in line)
    assert (told["trace_id"], told["exception"][0]["type"]) == (trace, "builtins.ValueError")
    assert CANARY not in logs + response.text


async def test_router_answers_problems_too(service: Any) -> None:
    missing = await service.client.get("/v1/nothing")
    wrong = await service.client.delete("/v1/raise")
    assert (missing.status_code, slug(missing)) == (404, "not-found")
    assert missing.json()["detail"].endswith(" has nothing at this path.")
    assert (wrong.status_code, slug(wrong), wrong.headers["allow"]) == (405, "method-not-allowed", "POST")


async def test_path_with_several_routes_names_all_their_methods(service: Any) -> None:
    wrong = await service.client.delete("/v1/things")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")


async def test_path_with_a_slash_too_many_is_nobodys(service: Any) -> None:
    response = await service.client.get("/v1/things/")
    assert (response.status_code, slug(response)) == (404, "not-found")


@pytest.mark.parametrize("body", [b"{", b"", b"[" * 3000, b'{"prompt": "\xff"}', b"nope"])
async def test_unreadable_body_is_malformed(service: Any, body: bytes) -> None:
    response = await service.client.post("/v1/things", content=body, headers=JSON)
    # An empty body is readable, it just lacks everything.
    assert (response.status_code, slug(response)) == ((422, "validation") if body == b"" else (400, "malformed-request"))


@pytest.mark.parametrize(
    ("change", "where", "kind"),
    [
        ({"steps": "7"}, "steps", "int_type"),
        ({"steps": True}, "steps", "int_type"),
        ({"steps": -1}, "steps", "greater_than_equal"),
        ({"steps": 10**30}, "steps", "less_than_equal"),
        ({"seed": 2**53}, "seed", "less_than_equal"),
        ({"rate": "1"}, "rate", "float_type"),
        ({"prompt": 1}, "prompt", "string_type"),
        ({"prompt": "x" * 4050}, "prompt", "string_too_long"),
        ({"prompt": "a\0b"}, "prompt", "value_error"),
        ({"quick": 1}, "quick", "bool_type"),
        ({"unknown": 1}, "unknown", "extra_forbidden"),
    ],
)
async def test_field_against_the_schema_is_named(service: Any, change: dict[str, Any], where: str, kind: str) -> None:
    response = await service.client.post("/v1/things", json={"prompt": "p"} | change)
    assert (response.status_code, slug(response)) == (422, "validation")
    assert [(error["loc"], error["type"]) for error in response.json()["errors"]] == [(["body", where], kind)]


@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        ({"prompt": "p", "source": {"format": "plain", "unknown": 1}}, ["source", "unknown"], "extra_forbidden"),
        ({"prompt": "p", "source": {"format": "other"}}, ["source"], "union_tag_invalid"),
        ({"prompt": "steps", "steps": "7"}, ["steps"], "int_type"),
        ({"source": {"format": "prompt"}}, ["source"], "union_tag_invalid"),
    ],
)
async def test_part_of_a_union_is_named_by_its_fields_alone(service: Any, body: dict[str, Any], where: list[str], kind: str) -> None:
    response = await service.client.post("/v1/things", json=body)
    assert (["body", *where], kind) in [(error["loc"], error["type"]) for error in response.json()["errors"]]


async def test_field_that_lacks_is_named_though_a_value_is_called_like_it(service: Any) -> None:
    response = await service.client.post("/v1/raise", json={"error": "text"})
    assert [(error["loc"], error["type"]) for error in response.json()["errors"]] == [(["body", "text"], "missing")]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
async def test_number_that_is_none_is_refused(service: Any, number: bytes) -> None:
    response = await service.client.post("/v1/things", content=b'{"prompt": "p", "rate": ' + number + b"}", headers=JSON)
    assert (response.status_code, slug(response)) == (422, "validation")
    assert response.json()["errors"][0]["loc"] == ["body", "rate"]


async def test_half_a_character_is_refused(service: Any) -> None:
    response = await service.client.post("/v1/things", content=b'{"prompt": "\\ud800"}', headers=JSON)
    assert (response.status_code, slug(response)) == (422, "validation")


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [CANARY]},
        {"prompt": "p", CANARY: 1},
        {"prompt": "p", "steps": CANARY},
        {"prompt": "p", "quick": CANARY},
        {"prompt": "p", "source": {"format": CANARY}},
        {"prompt": "p", "source": CANARY},
        {"prompt": CANARY * 131},
        {"prompt": CANARY + "\0"},
        CANARY,
        [CANARY],
    ],
)
async def test_problem_never_repeats_what_was_sent(service: Any, body: Any, logged: Callable[[], str]) -> None:
    response = await service.client.post("/v1/things", json=body)
    assert response.status_code == 422
    slug(response)
    assert CANARY not in response.text
    logs = logged()
    assert '"route": "/v1/things"' in logs
    assert CANARY not in logs


@pytest.mark.parametrize("query", ["page_size=0", "page_size=201", "page_size=x", "colour=red", "page_size=nan"])
async def test_query_against_the_schema_is_refused(service: Any, query: str) -> None:
    response = await service.client.get(f"/v1/numbers?{query}")
    assert (response.status_code, slug(response)) == (422, "validation")
    assert response.json()["errors"][0]["loc"][0] == "query"
