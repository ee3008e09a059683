"""The detector's client asks the routes of the contract, and fails closed."""

from __future__ import annotations

import json

import httpx
import pytest

from shared.client.detector import DetectorClient
from shared.errors import NotFoundError, ScreenerUnavailableError

VERDICT = {"decision": "allow", "score": 1.0, "p_value": 0.5, "threshold": 1.7, "signals": {}, "reasons": []}


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away", request=request)


def test_screening_and_matching_send_what_the_contract_names() -> None:
    sent: dict[str, object] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        sent[request.url.path] = json.loads(request.content)
        if request.url.path == "/v1/screenings":
            return httpx.Response(200, json={"results": [VERDICT], "calibration": "cal_1"})
        return httpx.Response(200, json={"matches": [[]], "verdicts": ["none"], "thresholds": {}, "agreements": [{"value": 0.5}]})

    client = DetectorClient("http://d", transport=httpx.MockTransport(answer))
    assert client.screen(model="mdl_1", prompts=["a"], explain=True).results[0].decision == "allow"
    matching = client.match(dataset="ds_1", images=[b"hi"], k=1, prompts=["a"])
    assert matching.agreements is not None
    assert sent == {
        "/v1/screenings": {"model": "mdl_1", "prompts": ["a"], "steps": 1, "seeds_per_prompt": 4, "seed": 0, "explain": True},
        "/v1/matches": {"dataset": "ds_1", "images": ["aGk="], "k": 1, "prompts": ["a"]},
    }


def test_calibrations_and_galleries_are_read() -> None:
    operation = {"id": "cal_1", "kind": "calibration", "state": "succeeded", "threshold": 1.7}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(204)
        return httpx.Response(200, json=operation | {"items": [operation]})

    client = DetectorClient("http://d", transport=httpx.MockTransport(answer))
    assert client.calibrate({"model": "mdl_1"}).id == "cal_1"
    assert client.wait_for_calibration("cal_1").model_dump()["threshold"] == 1.7
    assert client.get_calibration("cal_1").id == "cal_1"
    assert [item.id for item in client.list_calibrations()] == ["cal_1"]
    assert client.get_gallery("gal_1").state == "succeeded"


@pytest.mark.parametrize("answer", [away, lambda _request: httpx.Response(503, json={"type": "urn:lethe:problem:saturated"})])
def test_detector_without_an_answer_fails_closed(answer: object) -> None:
    client = DetectorClient("http://d", transport=httpx.MockTransport(answer))  # type: ignore[arg-type]
    with pytest.raises(ScreenerUnavailableError):
        client.screen(model="mdl_1", prompts=["a"])
    with pytest.raises(ScreenerUnavailableError):
        client.match(dataset="ds_1", images=[b"hi"])
    with pytest.raises(ScreenerUnavailableError):
        client.get_calibration("cal_1")


def test_refusal_of_the_request_itself_is_no_absence() -> None:
    problem = {"type": "urn:lethe:problem:not-found", "detail": "There is no model."}
    client = DetectorClient("http://d", transport=httpx.MockTransport(lambda _request: httpx.Response(404, json=problem)))
    with pytest.raises(NotFoundError):
        client.screen(model="mdl_1", prompts=["a"])
    client.close()
