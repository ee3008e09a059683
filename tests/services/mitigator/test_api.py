"""The mitigator over HTTP: images with evidence, refusals with evidence and without words, bad input named."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shared.imaging.png import decode_png
from tests.denoisers import PROMPTS
from tests.services.mitigator.conftest import Home
from tests.services.mitigator.doubles import FakeDetector

pytestmark = pytest.mark.anyio

WORDS = [word.strip(".,:") for word in PROMPTS[0].split() if len(word) > 3]


async def post(client: httpx.AsyncClient, home: Home, **other: Any) -> httpx.Response:
    """A small generation of the canary's prompt."""
    body = {"model": home.model, "prompts": PROMPTS[:1], "steps": 2, "guidance_scale": 3.0, **other}
    return await client.post("/v1/generations", content=json.dumps(body), headers={"Content-Type": "application/json"})


def is_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem, of this meaning and without the prompt's words."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), response.text
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:lethe:problem:{slug}"
    assert not [word for word in WORDS if word in response.text]
    return problem


async def test_safe_images_come_with_their_evidence(mitigator: httpx.AsyncClient, mitigator_home: Home) -> None:
    response = await post(mitigator, mitigator_home, prompts=PROMPTS[:2], images_per_prompt=2, seed=5)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
    answer = response.json()
    assert answer["id"].startswith("gen_")
    assert [(image["prompt_index"], image["seed"], image["uri"]) for image in answer["images"]] == [
        (0, 5, None),
        (0, 6, None),
        (1, 5, None),
        (1, 6, None),
    ]
    for image in answer["images"]:
        png = base64.b64decode(image["png"])
        assert decode_png(png, max_pixels=10_000).shape == (32, 32)
        assert image["sha256"] == hashlib.sha256(png).hexdigest()
    assert answer["images"][0]["evidence"] == {
        "strategy": "none",
        "changes": [],
        "score_before": 1.0,
        "score_after": 1.0,
        "threshold": 1e9,
        "similarity_before": 0.2,
        "similarity_after": 0.2,
        "similarity_threshold": 0.8,
        "verdict_before": "none",
        "verdict_after": "none",
        "fidelity_before": 1.0,
        "prompt_fidelity": 1.0,
        "forwards": 4,
        "calibration": "cal_1",
    }


async def test_copy_is_replaced_and_the_words_given_up_are_named(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector
) -> None:
    detector.verdicts = lambda question: ("copy", 0.95, 1.0) if question == 0 else ("none", 0.3, 0.9)
    (image,) = (await post(mitigator, mitigator_home)).json()["images"]
    evidence = image["evidence"]
    assert (evidence["strategy"], evidence["verdict_before"], evidence["verdict_after"]) == ("prompt_generalisation", "copy", "none")
    assert (evidence["similarity_before"], evidence["similarity_after"]) == (0.95, 0.3)
    assert (evidence["fidelity_before"], evidence["prompt_fidelity"]) == (1.0, 0.9)
    assert evidence["changes"]
    assert all(change.removeprefix("gave up: ") in PROMPTS[0] for change in evidence["changes"])
    assert evidence["score_after"] != evidence["score_before"]


async def test_named_strategy_gets_its_parameters(mitigator: httpx.AsyncClient, mitigator_home: Home) -> None:
    mitigation = {"strategy": "guidance_timing", "parameters": {"variant": "opposite", "switch": 0}}
    (image,) = (await post(mitigator, mitigator_home, mitigation=mitigation)).json()["images"]
    assert image["evidence"]["strategy"] == "guidance_timing"
    assert image["evidence"]["changes"] == ["guidance -2 until t = 0"]


async def test_copy_everywhere_is_refused_with_evidence_and_without_words(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector, logged: Callable[[], str]
) -> None:
    detector.verdicts = lambda _question: ("copy", 0.95, 1.0)
    problem = is_problem(await post(mitigator, mitigator_home, images_per_prompt=2), 409, "mitigation-insufficient")
    assert [(entry["prompt_index"], entry["seed"], entry["verdict_after"]) for entry in problem["evidence"]] == [
        (0, 0, "copy"),
        (0, 1, "copy"),
    ]
    assert problem["evidence"][0]["similarity_after"] == 0.95
    logs = logged()
    assert '"code": 409' in logs
    assert not [word for word in WORDS if word in logs]


async def test_refusal_names_the_prompt_that_caused_it(mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector) -> None:
    detector.verdicts = lambda question: ("none", 0.2, 1.0) if question == 0 else ("copy", 0.95, 1.0)
    problem = is_problem(await post(mitigator, mitigator_home, prompts=PROMPTS[2:0:-1]), 409, "mitigation-insufficient")
    assert [entry["prompt_index"] for entry in problem["evidence"]] == [1]


async def test_unknown_model_is_named(mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector) -> None:
    problem = is_problem(await post(mitigator, mitigator_home, model="mdl_unheard"), 404, "not-found")
    assert "mdl_unheard" in problem["detail"]
    assert detector.asked == []


async def test_model_without_a_data_set_is_in_conflict(mitigator: httpx.AsyncClient, mitigator_home: Home) -> None:
    problem = is_problem(await post(mitigator, mitigator_home, model=mitigator_home.orphan), 409, "state-conflict")
    assert "names no data set" in problem["detail"]


@pytest.mark.parametrize(
    ("wrong", "loc"),
    [
        ({"model": ""}, ["body", "model"]),
        ({"prompts": []}, ["body", "prompts"]),
        ({"prompts": ["a"] * 17}, ["body", "prompts"]),
        ({"prompts": ["a" * 2001]}, ["body", "prompts", 0]),
        ({"prompts": [1]}, ["body", "prompts", 0]),
        ({"images_per_prompt": 17}, ["body", "images_per_prompt"]),
        ({"images_per_prompt": True}, ["body", "images_per_prompt"]),
        ({"steps": 0}, ["body", "steps"]),
        ({"steps": 10**300}, ["body", "steps"]),
        ({"guidance_scale": float("nan")}, ["body", "guidance_scale"]),
        ({"guidance_scale": -1}, ["body", "guidance_scale"]),
        ({"seed": 2**53}, ["body", "seed"]),
        ({"scheduler": "ddpm"}, ["body", "scheduler"]),
        ({"output": "stored"}, ["body", "output"]),
        ({"unheard_of": 1}, ["body", "unheard_of"]),
        ({"mitigation": {"strategy": "unheard_of"}}, ["body", "mitigation", "strategy"]),
        ({"mitigation": {"strategy": "auto", "parameters": {"a": 1}}}, ["body", "mitigation", "parameters"]),
        (
            {"mitigation": {"strategy": "guidance_timing", "parameters": {"variant": "late"}}},
            ["body", "mitigation", "parameters", "variant"],
        ),
        (
            {"mitigation": {"strategy": "embedding_optimisation", "parameters": {"target": float("nan")}}},
            ["body", "mitigation", "parameters", "target"],
        ),
        (
            {"mitigation": {"strategy": "embedding_optimisation", "parameters": {"pleural": 1}}},
            ["body", "mitigation", "parameters"],
        ),
    ],
)
async def test_request_against_the_schema_is_refused_by_field(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector, wrong: dict[str, Any], loc: list[Any]
) -> None:
    problem = is_problem(await post(mitigator, mitigator_home, **wrong), 422, "validation")
    assert loc in [error["loc"] for error in problem["errors"]]
    assert detector.asked == []


async def test_prompt_beyond_the_encoders_window_is_refused_with_the_limit(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector
) -> None:
    problem = is_problem(await post(mitigator, mitigator_home, prompts=["edema", "pleural " * 100]), 422, "validation")
    assert problem["errors"][0]["loc"] == ["body", "prompts", "1"]
    assert "reads 64" in problem["detail"]
    assert detector.asked == []


async def test_detector_that_is_away_releases_nothing(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector, logged: Callable[[], str]
) -> None:
    detector.away = True
    response = await post(mitigator, mitigator_home)
    is_problem(response, 503, "screener-unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert not [word for word in WORDS if word in logged()]


async def test_detector_that_speaks_nonsense_releases_nothing(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector, logged: Callable[[], str]
) -> None:
    detector.answers["/v1/matches"] = {"matches": PROMPTS[0]}
    is_problem(await post(mitigator, mitigator_home), 503, "screener-unavailable")
    assert not [word for word in WORDS if word in logged()]


async def test_model_without_calibration_is_the_detectors_conflict(
    mitigator: httpx.AsyncClient, mitigator_home: Home, detector: FakeDetector
) -> None:
    detector.refusals["/v1/screenings"] = (409, "state-conflict")
    is_problem(await post(mitigator, mitigator_home), 409, "state-conflict")


async def test_strategies_tell_their_parameters_as_json_schemas(mitigator: httpx.AsyncClient) -> None:
    items = {item["name"]: item for item in (await mitigator.get("/v1/strategies")).json()["items"]}
    assert list(items) == ["auto", "prompt_generalisation", "embedding_optimisation", "guidance_timing"]
    assert all(item["summary"] and item["cost"] and item["paper"] for item in items.values())
    assert {name: sorted(item["parameters"]["properties"]) for name, item in items.items()} == {
        "auto": [],
        "prompt_generalisation": ["everything", "wording"],
        "embedding_optimisation": ["learning_rate", "max_iterations", "target"],
        "guidance_timing": ["switch", "variant"],
    }
    assert all(item["parameters"]["additionalProperties"] is False for item in items.values())
    assert items["embedding_optimisation"]["parameters"]["properties"]["learning_rate"]["default"] == 0.05
