"""What somebody sends who means no good: tricks in paths and headers, bodies that are too many, too large or packed."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.cli.supervisor import SERVICES
from shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.apps import OpenApp

pytestmark = pytest.mark.anyio

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi"
# Each would name something else if it reached a file system, a database or an object store as it is.
TRICKS = (
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2flethe.db",
    "%00",
    "mdl_%00",
    "mdl_1%0d%0aSet-Cookie:%20a=b",
    "%c3%a4%e2%80%ae",
    "..",
    "%5c..%5c",
)
MARK = "b9d1-injected"
INJECTIONS = {
    "Host": f"[{MARK}",
    "Idempotency-Key": f"a\tb{MARK}",
    "Last-Event-ID": f"1{MARK}",
    "traceparent": f"00-{MARK}-x-01",
    "If-None-Match": f'"{MARK}"',
    "X-Request-Id": MARK,
    "X-Forwarded-For": MARK,
    "User-Agent": MARK,
    "Accept": MARK,
}


def paths_with_ids(service: str) -> Iterator[tuple[str, str]]:
    """Every route of a service that takes something from its path."""
    paths: dict[str, dict[str, Any]] = json.loads((OPENAPI / f"{service}.json").read_text(encoding="utf-8"))["paths"]
    for path, methods in paths.items():
        for method in methods if "{" in path else ():
            yield method.upper(), path


@pytest.mark.parametrize("service", SERVICES)
async def test_tricks_in_paths_find_nothing(service: str, tmp_path: Path, running_app: OpenApp) -> None:
    app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path))
    async with running_app(app) as client:
        for method, path in paths_with_ids(service):
            for trick in TRICKS:
                tricked = path.replace("{id}", trick)
                tricked = re.sub(r"\{(record|number|step)\}", "1", tricked).replace("{picture}", "front").replace("{alias}", "champion")
                body = {"json": {}} if method in {"POST", "PUT"} else {}
                response = await client.request(method, f"http://service{tricked}", **body)
                assert response.status_code in {404, 422}, (method, tricked, response.text)
                assert response.status_code == 404 or path.endswith("/apply"), (method, tricked, response.text)
                assert response.headers["content-type"] == "application/problem+json"
                assert "set-cookie" not in response.headers


@pytest.mark.parametrize("service", SERVICES)
async def test_headers_that_callers_send_come_back_nowhere(
    service: str, tmp_path: Path, running_app: OpenApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path))
    async with running_app(app) as client:
        for name, value in INJECTIONS.items():
            for path in ("/v1/info", "/v1/models/mdl_x", "/v1/datasets/ds_x/events", "/v1/generations/gen_x", "/v1/nothing"):
                response = await client.get(path, headers={name: value})
                assert response.status_code < 500, (name, path, response.text)
                assert MARK not in str(response.headers) + response.text, (name, path)
    told = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert MARK not in "\n".join(record.getMessage() for record in told)


async def test_ten_thousand_prompts_are_refused_with_the_limit(tmp_path: Path, running_app: OpenApp) -> None:
    for service, path, limit in (("sampler", "generations", 64), ("mitigator", "generations", 16), ("detector", "screenings", 64)):
        app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path / service))
        async with running_app(app) as client:
            response = await client.post(f"/v1/{path}", json={"model": "mdl_1", "prompts": ["p"] * 10_000})
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert (error["loc"], error["type"]) == (["body", "prompts"], "too_long")
        assert f"at most {limit} items" in error["msg"]


@pytest.mark.parametrize("service", SERVICES)
async def test_packed_and_oversized_bodies_are_refused(service: str, tmp_path: Path, running_app: OpenApp) -> None:
    app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path))
    path = {"trainer": "/v1/datasets", "detector": "/v1/screenings"}.get(service, "/v1/generations")
    async with running_app(app) as client:
        packed = await client.post(
            path, content=gzip.compress(b"{}"), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
        )
        unknown = await client.post(path, content=b"<x/>", headers={"Content-Type": "application/xml"})
        large = await client.post(path, content=b" " * 1_048_577, headers={"Content-Type": "application/json"})
    assert (packed.status_code, unknown.status_code, large.status_code) == (415, 415, 413)
    assert {answer.headers["content-type"] for answer in (packed, unknown, large)} == {"application/problem+json"}
