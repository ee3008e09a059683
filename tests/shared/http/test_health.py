"""Health: alive is not ready."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from shared.errors import UnavailableError
from shared.http import health

pytestmark = pytest.mark.anyio
PATIENCE_SECONDS = 60


async def test_service_without_reasons_is_ready(service: Any) -> None:
    response = await service.client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})
    assert response.headers["cache-control"] == "no-store"


async def test_reason_makes_it_not_ready_but_alive(service: Any) -> None:
    service.state.reasons.append("the model is loading")
    response = await service.client.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "not ready", "reasons": ["the model is loading"]})
    assert (await service.client.get("/livez")).json() == {"status": "alive"}


async def test_scrape_tells_whether_the_service_is_ready(service: Any) -> None:
    assert "\nlethe_ready 1.0\n" in (await service.client.get("/metrics")).text
    service.state.reasons.append("the model is loading")
    assert "\nlethe_ready 0.0\n" in (await service.client.get("/metrics")).text


async def test_draining_service_is_not_ready(service: Any) -> None:
    service.app.state.draining.begun = True
    assert (await service.client.get("/readyz")).json()["reasons"] == ["draining"]


async def test_check_that_fails_is_a_reason(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> list[str]:
        raise UnavailableError("The object store does not answer.")

    monkeypatch.setattr(service.state.runner, "not_ready", away)
    assert (await service.client.get("/readyz")).json()["reasons"] == ["The object store does not answer."]


async def test_check_that_hangs_is_a_reason(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> list[str]:
        calls.append(1)
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        return []

    monkeypatch.setattr(health, "_READY_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(service.state.runner, "not_ready", hang)
    try:
        for _ in range(2):
            response = await service.client.get("/readyz")
            assert (response.status_code, response.json()["reasons"]) == (503, ["the readiness check does not end"])
        assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
        assert calls == [1]
    finally:
        go_on.set()


async def test_check_that_hangs_tells_what_the_last_one_said(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, said = threading.Event(), ["The object store does not answer."]

    def hang() -> list[str]:
        go_on.wait(PATIENCE_SECONDS)
        return []

    monkeypatch.setattr(service.state.runner, "not_ready", lambda: said)
    assert (await service.client.get("/readyz")).json()["reasons"] == said
    monkeypatch.setattr(health, "_READY_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(service.state.runner, "not_ready", hang)
    try:
        assert (await service.client.get("/readyz")).json()["reasons"] == ["the readiness check does not end", *said]
    finally:
        go_on.set()
