"""Every problem is counted once, and refusals also by why the request was refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.http.problem_metrics import count_problem
from shared.http.problems import PROBLEM_KINDS

pytestmark = pytest.mark.anyio


def problems(slug: str) -> float | None:
    return REGISTRY.get_sample_value("lethe_problems_total", {"problem": slug})


def rejected(reason: str) -> float | None:
    return REGISTRY.get_sample_value("lethe_requests_rejected_total", {"reason": reason})


def test_every_slug_and_reason_is_there_before_its_first_problem() -> None:
    assert [slug for slug in PROBLEM_KINDS if problems(slug) is None] == []
    assert [reason for reason in ("quota", "limit", "saturated", "body") if rejected(reason) is None] == []


@pytest.mark.parametrize(
    ("slug", "reason"),
    [
        ("rate-limited", "quota"),
        ("limit-exceeded", "limit"),
        ("saturated", "saturated"),
        ("payload-too-large", "body"),
        ("unsupported-media-type", "body"),
    ],
)
def test_refusal_is_counted_by_its_reason(slug: str, reason: str) -> None:
    before = (problems(slug) or 0, rejected(reason) or 0)
    count_problem(slug)
    assert (problems(slug), rejected(reason)) == (before[0] + 1, before[1] + 1)


async def test_answered_problems_are_counted_once_each(service: Any) -> None:
    slugs = ("not-found", "malformed-request", "unsupported-media-type", "internal", "screener-unavailable")
    before = [problems(slug) or 0 for slug in slugs]
    await service.client.get("/random")
    await service.client.post("/v1/things", content=b"{", headers={"Content-Type": "application/json"})
    await service.client.post("/v1/things", content=b"{}", headers={"Content-Type": "text/plain"})
    for error in ("AnyDefect", "ScreenerUnavailableError"):
        await service.client.post(
            "/v1/raise", content=json.dumps({"error": error, "text": "x"}), headers={"Content-Type": "application/json"}
        )
    assert [problems(slug) for slug in slugs] == [count + 1 for count in before]
