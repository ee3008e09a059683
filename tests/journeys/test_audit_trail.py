"""Every action of the four services leaves its event in one log, which verifies."""

from __future__ import annotations

import base64
import functools
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from shared.auditing import Anchors, AuditLog, verify_log
from shared.imaging.png import encode_png
from tests.services.mitigator.doubles import FakeDetector

if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.fixtures.apps import OpenApp
    from tests.fixtures.judging import JudgingHome

pytestmark = pytest.mark.anyio

PROMPT = "PA chest radiograph of a 60-year-old man"
PICTURE = base64.b64encode(encode_png(np.zeros((32, 32), dtype=np.uint8))).decode()


def told(settings: Settings) -> list[dict[str, Any]]:
    """The events so far, in a log that is whole and anchored to its end."""
    with closing(AuditLog.open(settings)) as log, closing(Anchors.open(settings)) as anchors:
        verification = verify_log(log, anchors)
        assert verification.findings == []
        events = [chained.as_json() for chained in log.read()]
        assert [anchor.sequence for anchor in anchors.read()][-1] == events[-1]["sequence"]
    return [event["event"] for event in events]


async def test_sampler_tells_what_it_drew_and_handed_out(judging_home: JudgingHome, running_app: OpenApp) -> None:
    from services.sampler.app import create_app

    model = judging_home.stocked.model.id
    asked = {"model": model, "prompts": [PROMPT, ""], "images_per_prompt": 2, "steps": 1}
    async with running_app(create_app(judging_home.settings)) as client:
        inline = (await client.post("/v1/generations", json=asked)).json()
        stored = (await client.post("/v1/generations", json=asked | {"output": "stored"})).json()
        assert (await client.get(f"/v1/generations/{stored['id']}/images/0")).status_code == 200
        assert (await client.post("/v1/generations", json=asked | {"model": "mdl_unheard"})).status_code == 404
        assert (await client.post("/v1/generations", json={"prompts": [PROMPT]})).status_code == 422
    events = told(judging_home.settings)
    assert [(event["action"], event["outcome"], event["status"], event["images"], event["resources"]) for event in events] == [
        ("generate", "done", 200, 4, {"model": model, "generation": inline["id"]}),
        ("generate", "begun", None, 4, {"model": model, "generation": stored["id"]}),
        ("download", "done", 200, 0, {"id": stored["id"], "number": "0"}),
        ("generate", "refused", 404, 4, {}),
        ("generate", "refused", 422, 0, {}),
    ]
    assert events[0]["prompts"] == events[1]["prompts"]
    assert [mark["length"] for mark in events[0]["prompts"]] == [len(PROMPT), 0]


async def test_detector_tells_what_it_judged(judging_home: JudgingHome, running_app: OpenApp) -> None:
    from services.detector.app import create_app

    model, dataset = judging_home.stocked.model.id, judging_home.stocked.dataset.id
    async with running_app(create_app(judging_home.settings)) as client:
        screening = {"model": model, "prompts": [PROMPT], "seeds_per_prompt": 2}
        assert (await client.post("/v1/screenings", json=screening)).status_code == 200
        assert (await client.post("/v1/matches", json={"dataset": dataset, "images": [PICTURE]})).status_code == 200
    events = told(judging_home.settings)
    assert [(event["action"], event["outcome"], event["images"], event["resources"]) for event in events] == [
        ("score", "done", 0, {"model": model}),
        ("score", "done", 1, {"dataset": dataset}),
    ]


async def test_mitigator_tells_what_it_released_and_what_it_refused(
    judging_home: JudgingHome, running_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.mitigator import app as mitigator
    from shared.client import DetectorClient

    detector = FakeDetector()
    monkeypatch.setattr(mitigator, "DetectorClient", functools.partial(DetectorClient, transport=httpx.MockTransport(detector.answer)))
    model = judging_home.stocked.model.id
    async with running_app(mitigator.create_app(judging_home.settings)) as client:
        detector.verdicts = lambda _question: ("none", 0.3, 1.0)
        answer = await client.post("/v1/generations", json={"model": model, "prompts": [PROMPT], "steps": 1})
        assert answer.status_code == 200
        detector.verdicts = lambda _question: ("copy", 0.95, 1.0)
        assert (await client.post("/v1/generations", json={"model": model, "prompts": [PROMPT], "steps": 1})).status_code == 409
    events = told(judging_home.settings)
    assert [(event["action"], event["outcome"], event["resources"]) for event in events] == [
        ("mitigate", "done", {"model": model, "generation": answer.json()["id"]}),
        ("mitigate", "refused", {"model": model}),
    ]
    assert events[0]["prompts"] == events[1]["prompts"]


async def test_trainer_tells_jobs_films_aliases_and_denials(judging_home: JudgingHome, running_app: OpenApp) -> None:
    from services.trainer.app import create_app

    model, dataset = judging_home.stocked.model.id, judging_home.stocked.dataset.id
    async with running_app(create_app(judging_home.settings)) as client:
        training = {"name": "again", "dataset": dataset, "base": model, "steps": 5, "batch_size": 2}
        job = (await client.post("/v1/training-jobs", json=training)).json()
        assert (await client.post(f"/v1/training-jobs/{job['id']}/cancel")).status_code == 200
        assert (await client.get(f"/v1/datasets/{dataset}/records/1/image")).status_code == 200
        assert (await client.get(f"/v1/datasets/{dataset}/records")).status_code == 200
        assert (await client.put(f"/v1/models/{model}/aliases/champion")).status_code == 200
        assert (await client.post("/v1/models/import", json={"name": "sd", "uri": "file:///etc"})).status_code == 403
        assert (await client.get(f"/v1/models/{model}")).status_code == 200
    assert [(event["action"], event["outcome"], event["resources"]) for event in told(judging_home.settings)] == [
        ("train", "done", {"dataset": dataset, "base": model, "training": job["id"]}),
        ("train", "begun", {"training": job["id"]}),
        ("download", "done", {"id": dataset, "record": "1"}),
        ("download", "done", {"id": dataset}),
        ("admin", "begun", {"model": model, "alias": "champion"}),
        ("train", "denied", {}),
    ]
