"""A prompt goes into a service and comes out nowhere but in the answer to who sent it: not in logs, metrics, problems, records or files."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from shared.access.quota_tables import QUOTA_USAGE
from shared.auditing import AuditLog
from shared.database import Database
from shared.imaging.png import encode_png
from tests.services.mitigator.doubles import FakeDetector

if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.fixtures.apps import OpenApp
    from tests.fixtures.judging import JudgingHome

pytestmark = pytest.mark.anyio

MARKER = "zyzzogram"  # a word that nothing else in the system has
PROMPT = f"PA chest radiograph of a 47-year-old {MARKER} woman with a large left pleural effusion"
BEYOND_WINDOW = " ".join([PROMPT] * 10)  # more tokens than the encoder reads, fewer characters than the schema allows
PICTURE = base64.b64encode(encode_png(np.zeros((32, 32), dtype=np.uint8))).decode()
MEGABYTE = 2**20


@dataclass
class Witness:
    """Sends bodies to a service and keeps what everybody but the caller could read."""

    client: httpx.AsyncClient
    seen: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    async def send(self, path: str, content: str, media_type: str = "application/json") -> httpx.Response:
        """Post a body that holds the prompt."""
        assert MARKER in content
        response = await self.client.post(path, content=content, headers={"Content-Type": media_type})
        self.seen.add(response.status_code)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            self.problems.append(response.text)
        return response

    async def send_all(self, path: str, valid: dict[str, Any], *, named: str, narrow: str) -> None:
        """Post the prompt in every way in which it can go wrong: `named` is the field of an id, `narrow` one that takes no text."""
        for body in wrong_bodies(valid, named, narrow):
            await self.send(path, body)
        await self.send(path, json.dumps(valid), media_type="text/plain")

    async def leaks(self, logs: str) -> list[str]:
        """Where the prompt is told though it should not be."""
        metrics = (await self.client.get("/metrics")).text
        assert '"event": "request"' in logs
        assert "lethe_http_requests_total{" in metrics
        told = {"a log line": logs, "the metrics": metrics, "a problem": "\n".join(self.problems)}
        return [where for where, text in told.items() if MARKER in text.lower()]


def wrong_bodies(valid: dict[str, Any], named: str, narrow: str) -> Iterator[str]:
    """The same request, unacceptable in one way each."""
    for wrong in (
        {"prompts": [PROMPT * 100]},
        {"prompts": [PROMPT, BEYOND_WINDOW]},
        {"prompts": PROMPT},
        {"prompts": [[PROMPT]]},
        {"prompts": [{PROMPT: PROMPT}]},
        {"prompts": [PROMPT] * 65},
        {"prompts": [PROMPT + "\0"]},
        {"prompts": [PROMPT + "\ud800"]},
        {named: "unheard_1"},
        {named: {PROMPT: [PROMPT]}},
        {narrow: PROMPT},
        {narrow: [PROMPT]},
        {"seed": PROMPT},
        {PROMPT: 1},
        {"note": PROMPT},
    ):
        yield json.dumps(valid | wrong)
    yield json.dumps(valid)[:-1]
    yield json.dumps(valid) + PROMPT
    yield PROMPT
    yield json.dumps(PROMPT)
    yield json.dumps([valid])
    yield json.dumps(valid | {"note": PROMPT * (32 * MEGABYTE // len(PROMPT) + 1)})


def with_quotas(settings: Settings) -> Settings:
    """Settings under which every image and request is counted."""
    counted = {"quota_requests_per_minute": 10_000, "quota_images_per_day": 10_000, "quota_images_per_prompt_per_day": 10_000}
    return settings.model_copy(update=counted)


def recorded(settings: Settings) -> list[str]:
    """What the audit log holds and who used how much, as text."""
    with closing(AuditLog.open(settings)) as log, closing(Database.open(settings)) as database:
        events = [chained.content for chained in log.read()]
        with database.reading() as connection:
            usage = [str(row) for row in connection.execute(select(QUOTA_USAGE))]
    assert any('"hmac"' in event for event in events)
    assert usage
    return events + usage


def files_with_marker(home: Path) -> list[Path]:
    """Files below a home in which the prompt stands."""
    return [path for path in home.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes().lower()]


async def test_sampler_tells_no_prompt(judging_home: JudgingHome, running_app: OpenApp, logged: Callable[[], str]) -> None:
    from services.sampler.app import create_app

    valid = {"model": judging_home.stocked.model.id, "prompts": [PROMPT, ""], "steps": 1}
    async with running_app(create_app(with_quotas(judging_home.settings))) as client:
        witness = Witness(client)
        assert (await witness.send("/v1/generations", json.dumps(valid))).status_code == 200
        stored = (await witness.send("/v1/generations", json.dumps(valid | {"output": "stored"}))).json()
        assert MARKER not in (await client.get(f"/v1/generations/{stored['id']}")).text
        await witness.send_all("/v1/generations", valid, named="model", narrow="scheduler")
        assert witness.seen == {200, 400, 404, 413, 415, 422}
        assert await witness.leaks(logged()) == []
    assert MARKER not in str(recorded(judging_home.settings)).lower()
    assert files_with_marker(judging_home.settings.home) == []


async def test_detector_tells_no_prompt(judging_home: JudgingHome, running_app: OpenApp, logged: Callable[[], str]) -> None:
    from services.detector.app import create_app

    screening = {"model": judging_home.stocked.model.id, "prompts": [PROMPT, ""], "seeds_per_prompt": 2, "explain": True}
    matching = {"dataset": judging_home.stocked.dataset.id, "images": [PICTURE, PICTURE], "prompts": [PROMPT, BEYOND_WINDOW]}
    async with running_app(create_app(with_quotas(judging_home.settings))) as client:
        witness = Witness(client)
        assert (await witness.send("/v1/screenings", json.dumps(screening))).status_code == 200
        assert (await witness.send("/v1/screenings", json.dumps(screening | {"seed": 1}))).status_code == 409
        assert (await witness.send("/v1/matches", json.dumps(matching))).status_code == 200
        await witness.send_all("/v1/screenings", screening, named="model", narrow="signals")
        await witness.send_all("/v1/matches", matching, named="dataset", narrow="images")
        await witness.send("/v1/matches", json.dumps(matching | {"prompts": [PROMPT]}))
        assert witness.seen == {200, 400, 404, 409, 413, 415, 422}
        assert await witness.leaks(logged()) == []
    assert MARKER not in str(recorded(judging_home.settings)).lower()
    assert files_with_marker(judging_home.settings.home) == []


async def test_mitigator_tells_no_prompt(
    judging_home: JudgingHome, running_app: OpenApp, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.mitigator import app as mitigator
    from shared.client import DetectorClient

    detector = FakeDetector()
    monkeypatch.setattr(mitigator, "DetectorClient", functools.partial(DetectorClient, transport=httpx.MockTransport(detector.answer)))
    valid = {"model": judging_home.stocked.model.id, "prompts": [PROMPT], "steps": 1}
    async with running_app(mitigator.create_app(with_quotas(judging_home.settings))) as client:
        witness = Witness(client)
        detector.verdicts = lambda question: ("copy", 0.95, 1.0) if question == 0 else ("none", 0.3, 0.9)
        assert (await witness.send("/v1/generations", json.dumps(valid))).status_code == 200
        detector.verdicts = lambda _question: ("copy", 0.95, 1.0)
        assert (await witness.send("/v1/generations", json.dumps(valid))).status_code == 409
        detector.answers["/v1/matches"] = {"matches": PROMPT}
        assert (await witness.send("/v1/generations", json.dumps(valid))).status_code == 503
        detector.away = True
        assert (await witness.send("/v1/generations", json.dumps(valid))).status_code == 503
        for mitigation in ({"strategy": PROMPT}, {"strategy": "guidance_timing", "parameters": {PROMPT: PROMPT, "variant": PROMPT}}):
            assert (await witness.send("/v1/generations", json.dumps(valid | {"mitigation": mitigation}))).status_code == 422
        await witness.send_all("/v1/generations", valid, named="model", narrow="scheduler")
        assert witness.seen == {200, 400, 404, 409, 413, 415, 422, 503}
        assert await witness.leaks(logged()) == []
    assert MARKER not in str(recorded(judging_home.settings)).lower()
    assert files_with_marker(judging_home.settings.home) == []
