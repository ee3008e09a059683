"""Request metrics: route templates, closed labels, a format that parses."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.anyio


def count(route: str, method: str, code: int) -> float:
    labels = {"route": route, "method": method, "code": str(code)}
    return REGISTRY.get_sample_value("lethe_http_requests_total", labels) or 0.0


async def test_request_is_counted_under_its_template_with_status(service: Any) -> None:
    before = count("/v1/things/{id}", "GET", 404)
    await service.client.get("/v1/things/thing_77")
    await service.client.get("/v1/things/thing_78")
    assert count("/v1/things/{id}", "GET", 404) == before + 2


async def test_unknown_paths_and_methods_share_a_label(service: Any) -> None:
    before = count("unmatched", "GET", 404), count("unmatched", "OTHER", 404)
    await service.client.get("/random/1")
    await service.client.get("/random/2")
    await service.client.request("BREW", "/random/3")
    assert (count("unmatched", "GET", 404), count("unmatched", "OTHER", 404)) == (before[0] + 2, before[1] + 1)


async def test_exposition_parses_and_holds_no_path_of_a_caller(service: Any) -> None:
    await service.client.get("/v1/things/canary-thing")
    await service.client.get("/livez")
    response = await service.client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert {"lethe_http_requests", "lethe_http_request_duration_seconds", "lethe_build_info", "lethe_jobs"} <= set(families)
    routes = {sample.labels["route"] for sample in families["lethe_http_requests"].samples}
    assert "canary-thing" not in response.text
    assert not routes & {"/livez", "/readyz", "/metrics"}


async def test_every_answer_names_its_request(service: Any) -> None:
    ids = {(await service.client.get("/v1/info")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
