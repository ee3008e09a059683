"""The detector's routes as callers meet them: verdicts, and what bad input gets."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.catalog import Catalog, new_id, open_catalog
from shared.imaging.films import FilmTable
from shared.imaging.png import encode_png

if TYPE_CHECKING:
    from tests.services.detector.conftest import Detector

PROMPT = "AP chest radiograph, pleural effusion"


def slug(response: httpx.Response) -> str:
    return str(response.json()["type"]).removeprefix("urn:lethe:problem:")


def in_base64(image_HW: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(image_HW)).decode()


@pytest.fixture
def films(judging_catalog: Catalog, detector: Detector) -> FilmTable:
    return FilmTable(judging_catalog.fetch(detector.home.stocked.dataset))


async def test_screening_answers_a_verdict_on_each_prompt(detector: Detector) -> None:
    response = await detector.screen([PROMPT, "PA chest radiograph"])
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["calibration"] == detector.home.calibration.id
    assert answer["control_median"] == detector.home.calibration.control_median
    for result in answer["results"]:
        flagged = result["score"] >= detector.home.calibration.threshold
        assert result["decision"] == ("mitigate" if flagged else "allow")
        assert result["signals"] == {"noise_magnitude": result["score"]}
        assert 0 < result["p_value"] <= 1
        assert result["threshold"] == detector.home.calibration.threshold
        assert result["tokens"] is None
        assert f"{result['score']:.3g}" in result["reasons"][0]


async def test_screening_with_explain_names_the_words_in_order(detector: Detector) -> None:
    answer = (await detector.screen([PROMPT], explain=True)).json()
    tokens = answer["results"][0]["tokens"]
    assert [token["text"] for token in tokens] == PROMPT.split()
    assert sum(token["weight"] for token in tokens) == pytest.approx(1)


async def test_control_prompt_of_the_calibration_never_exceeds_its_share(detector: Detector, films: FilmTable) -> None:
    prompts = [films.facts[record].prompt for record in films.select("control", fold="calibration")]
    results = (await detector.screen(prompts)).json()["results"]
    # Fewer than 20 % of so few may be flagged, and none of them has a p-value of 0.
    assert sum(result["decision"] == "mitigate" for result in results) / len(prompts) <= 0.2
    assert min(result["p_value"] for result in results) >= 1 / (len(prompts) + 1)


async def test_screening_without_calibration_for_the_settings_says_how_to_make_one(detector: Detector) -> None:
    for more in ({"seeds_per_prompt": 3}, {"steps": 2}, {"seed": 1}):
        response = await detector.screen([PROMPT], **more)
        assert (response.status_code, slug(response)) == (409, "state-conflict")
        assert "POST /v1/calibrations" in response.json()["detail"]


async def test_screening_with_an_unknown_model_names_it(detector: Detector) -> None:
    unknown = new_id("model")
    response = await detector.screen([PROMPT], model=unknown)
    assert (response.status_code, slug(response)) == (404, "not-found")
    assert unknown in response.json()["detail"]


async def test_too_long_prompt_is_refused_with_the_limit_and_its_place(detector: Detector) -> None:
    response = await detector.screen([PROMPT, "lung " * 100])
    assert (response.status_code, slug(response)) == (422, "validation")
    assert "64" in response.json()["detail"]
    assert response.json()["errors"][0]["loc"] == ["body", "prompts", "1"]
    assert "lung" not in response.text


async def test_too_long_prompt_does_not_fail_a_request_that_came_with_it(detector: Detector) -> None:
    answers: dict[str, httpx.Response] = {}

    async def ask(name: str, prompts: list[str]) -> None:
        answers[name] = await detector.screen(prompts)

    alone = (await detector.screen([PROMPT])).json()["results"][0]["score"]
    async with anyio.create_task_group() as group:
        group.start_soon(ask, "long", ["lung " * 100])
        group.start_soon(ask, "short", [PROMPT])
    assert answers["long"].status_code == 422
    assert answers["short"].json()["results"][0]["score"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        {"prompts": []},
        {"prompts": ["x"] * 65},
        {"prompts": ["x" * 2001]},
        {"prompts": "x"},
        {"prompts": [1]},
        {"prompts": ["\ud800"]},
        {"steps": 0},
        {"steps": 11},
        {"steps": True},
        {"steps": 1.0},
        {"seeds_per_prompt": 33},
        {"seed": -1},
        {"seed": 2**53},
        {"signals": []},
        {"signals": ["sharpness"]},
        {"explain": 1},
        {"surprise": 1},
        {"model": ""},
    ],
    ids=str,
)
async def test_screening_against_the_schema_is_refused(detector: Detector, body: dict[str, Any]) -> None:
    response = await detector.screen(**{"prompts": [PROMPT], **body})
    assert (response.status_code, slug(response)) == (422, "validation")


async def test_not_a_number_is_refused(detector: Detector) -> None:
    content = f'{{"model": "{detector.home.stocked.model.id}", "dataset": "ds_1", "false_positive_rate": NaN}}'
    response = await detector.client.post("/v1/calibrations", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, slug(response)) == (422, "validation")


async def test_corrupted_control_scores_are_an_integrity_problem(detector: Detector) -> None:
    identifier = detector.home.calibration.id
    path = detector.home.stocked.folder / "store" / "calibrations" / identifier / "control_scores.json"
    path.chmod(0o644)
    path.write_text('{"scores": [0.0]}', encoding="utf-8")
    response = await detector.screen([PROMPT])
    assert (response.status_code, slug(response)) == (500, "integrity-failed")


async def test_corrupted_weights_are_an_integrity_problem(detector: Detector) -> None:
    folder = detector.home.stocked.folder
    weights = next((folder / "store" / "models" / detector.home.stocked.model.id / "unet").glob("*.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    response = await detector.screen([PROMPT])
    assert (response.status_code, slug(response)) == (500, "integrity-failed")


async def test_training_film_is_called_a_copy_of_itself(detector: Detector, films: FilmTable) -> None:
    records = films.select("train", "canary")[:3]
    images = [in_base64(image) for image in films.images(records)]
    response = await detector.match(images, k=4, prompts=[films.facts[record].prompt for record in records])
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["verdicts"] == ["copy"] * 3
    assert answer["gallery"] == detector.home.gallery.id
    assert set(answer["thresholds"]) == {"copy", "tile_distance", "same_patient"}
    for record, neighbours, agreement in zip(records, answer["matches"], answer["agreements"], strict=True):
        assert len(neighbours) == 4
        assert neighbours[0]["record"] == record
        assert neighbours[0]["patient"] == films.facts[record].patient
        assert neighbours[0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert neighbours[0]["tile_distance"] == pytest.approx(0, abs=1e-4)
        assert 0 <= agreement["value"] <= 1
        assert agreement["asked"]


async def test_match_without_prompts_answers_no_agreements(detector: Detector, films: FilmTable) -> None:
    answer = (await detector.match([in_base64(films.images([0])[0])])).json()
    assert answer["agreements"] is None


async def test_larger_picture_is_brought_to_the_size_of_the_gallery(detector: Detector, films: FilmTable) -> None:
    record = films.select("train")[0]
    doubled = np.kron(films.images([record])[0], np.ones((2, 2), dtype=np.uint8))
    neighbours = (await detector.match([in_base64(doubled)])).json()["matches"][0]
    assert (neighbours[0]["record"], neighbours[0]["verdict"]) == (record, "copy")


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        ("no base64!", "base64"),
        (base64.b64encode(b"no picture").decode(), "PNG"),
        (in_base64(np.zeros((32, 32), dtype=np.uint8))[:60], "PNG"),
        ("ä", "base64"),
        ("", "PNG"),
    ],
)
async def test_unreadable_picture_is_refused_with_its_place(detector: Detector, picture: str, told: str) -> None:
    sound = in_base64(np.zeros((32, 32), dtype=np.uint8))
    response = await detector.match([sound, picture])
    assert (response.status_code, slug(response)) == (422, "validation")
    assert response.json()["errors"][0]["loc"] == ["body", "images", "1"]
    assert told in response.json()["detail"]


async def test_prompts_that_are_not_one_an_image_are_refused(detector: Detector) -> None:
    response = await detector.match([in_base64(np.zeros((32, 32), dtype=np.uint8))], prompts=["a", "b"])
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body", "prompts"])


async def test_match_in_an_unknown_data_set_names_it(detector: Detector) -> None:
    unknown = new_id("dataset")
    response = await detector.match([in_base64(np.zeros((32, 32), dtype=np.uint8))], dataset=unknown)
    assert (response.status_code, slug(response)) == (404, "not-found")
    assert unknown in response.json()["detail"]


async def test_body_of_matches_may_be_larger_than_that_of_screenings(detector: Detector) -> None:
    large = "A" * 1_100_000
    assert (await detector.match([large])).status_code == 422
    assert (await detector.screen([large])).status_code == 413


@pytest.mark.parametrize("body", [{"model": "mdl_none"}, {"dataset": "ds_none"}])
async def test_calibration_of_unknown_inputs_is_refused_at_once(detector: Detector, body: dict[str, Any]) -> None:
    stocked = detector.home.stocked
    response = await detector.post("/v1/calibrations", **{"model": stocked.model.id, "dataset": stocked.dataset.id, **body})
    assert (response.status_code, slug(response)) == (404, "not-found")
    assert next(iter(body.values())) in response.json()["detail"]


async def test_gallery_of_an_unknown_data_set_is_refused_at_once(detector: Detector) -> None:
    response = await detector.post("/v1/galleries", dataset="ds_none")
    assert (response.status_code, slug(response)) == (404, "not-found")


async def test_calibration_runs_and_is_then_in_force(detector: Detector) -> None:
    stocked = detector.home.stocked
    response = await detector.post(
        "/v1/calibrations", model=stocked.model.id, dataset=stocked.dataset.id, seeds_per_prompt=2, seed=9, false_positive_rate=0.01
    )
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/calibrations/{response.json()['id']}"
    job = await detector.wait(response.headers["location"])
    assert job["state"] == "succeeded", job
    assert job["result"]["calibration"] == job["id"]
    assert job["result"]["threshold"] == job["threshold"]
    assert math.isfinite(job["control_median"])
    assert "too few" in job["result"]["warnings"][0]
    screened = (await detector.screen([PROMPT], seed=9)).json()
    assert screened["calibration"] == job["id"]
    listed = (await detector.client.get("/v1/calibrations")).json()["items"]
    assert [item["id"] for item in listed] == [job["id"]]
    older = (await detector.client.get(f"/v1/calibrations/{detector.home.calibration.id}")).json()
    assert (older["state"], older["threshold"]) == ("succeeded", detector.home.calibration.threshold)


async def test_gallery_that_a_calibration_built_can_be_read(detector: Detector) -> None:
    gallery = (await detector.client.get(f"/v1/galleries/{detector.home.gallery.id}")).json()
    assert (gallery["state"], gallery["dataset"]) == ("succeeded", detector.home.stocked.dataset.id)
    assert gallery["result"]["thresholds"] == detector.home.gallery.thresholds
    assert (await detector.client.get("/v1/galleries/gal_none")).status_code == 404


async def test_prompt_is_in_no_metric(detector: Detector) -> None:
    await detector.screen(["PA chest radiograph, zebrafish"])
    metrics = (await detector.client.get("/metrics")).text
    assert "zebrafish" not in metrics
    assert "lethe_prompts_screened_total{verdict=" in metrics
    assert "lethe_memorization_score_bucket" in metrics


async def test_patients_of_neighbours_are_training_patients(detector: Detector, films: FilmTable) -> None:
    trained = {films.facts[record].patient for record in films.select("train", "canary")}
    image = in_base64(films.images(films.select("control"))[0])
    neighbours = (await detector.match([image], k=50)).json()["matches"][0]
    assert {neighbour["patient"] for neighbour in neighbours} <= trained
    with open_catalog(detector.home.settings) as catalog:
        assert len(neighbours) == min(50, catalog.get("gallery", detector.home.gallery.id).metrics["films"])
