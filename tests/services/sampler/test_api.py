"""The sampler's routes: images inline and stored, and what bad input gets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shared.diffusion import studio
from shared.diffusion.batching import MicroBatcher
from shared.imaging.png import decode_png

if TYPE_CHECKING:
    import httpx

    from tests.fixtures.models import StockedHome

PROMPTS = ["chest X-ray, AP, cardiomegaly", "chest X-ray, PA, no finding"]


def slug(problem: dict[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:lethe:problem:")


async def generate(sampler: httpx.AsyncClient, home: StockedHome, **changes: Any) -> httpx.Response:
    """Post what json.dumps makes of it, NaN included."""
    body = {"model": home.model.id, "prompts": PROMPTS, "steps": 2, "guidance_scale": 2.0, **changes}
    return await sampler.post("/v1/generations", content=json.dumps(body), headers={"Content-Type": "application/json"})


async def test_images_come_by_prompt_and_then_by_seed(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    response = await generate(sampler, stocked_home, images_per_prompt=2, seed=7)
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"].startswith("gen_")
    assert [(image["prompt_index"], image["seed"]) for image in answer["images"]] == [(0, 7), (0, 8), (1, 7), (1, 8)]
    for image in answer["images"]:
        png = base64.b64decode(image["png"])
        assert hashlib.sha256(png).hexdigest() == image["sha256"]
        assert decode_png(png, max_pixels=1024).shape == (32, 32)
        assert image["uri"] is None


async def test_same_request_gives_the_same_images(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    first, second = [(await generate(sampler, stocked_home, seed=3)).json()["images"] for _ in range(2)]
    assert first == second


async def test_repeated_key_gives_the_first_answer_without_drawing_again(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    sampler.headers["Idempotency-Key"] = "k1"
    first, again = [await generate(sampler, stocked_home) for _ in range(2)]
    assert first.content == again.content
    assert first.json()["id"].startswith("gen_")
    reused = await generate(sampler, stocked_home, seed=1)
    assert (reused.status_code, reused.json()["type"]) == (409, "urn:lethe:problem:idempotency-key-reused")
    del sampler.headers["Idempotency-Key"]
    assert (await generate(sampler, stocked_home)).json()["id"] != first.json()["id"]


async def test_stored_images_are_read_where_the_answer_says(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    inline = (await generate(sampler, stocked_home)).json()["images"]
    stored = (await generate(sampler, stocked_home, output="stored")).json()
    for plain, kept in zip(inline, stored["images"], strict=True):
        assert kept["png"] is None
        image = await sampler.get(kept["uri"])
        assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
        assert image.content == base64.b64decode(plain["png"])
        known = await sampler.get(kept["uri"], headers={"If-None-Match": image.headers["ETag"]})
        assert (known.status_code, known.content) == (304, b"")
    told = (await sampler.get(f"/v1/generations/{stored['id']}")).json()
    assert told["images"] == [{name: value for name, value in image.items() if name != "png"} for image in stored["images"]]
    assert told["request"]["steps"] == 2
    assert [mark["length"] for mark in told["request"]["prompt_marks"]] == [len(prompt) for prompt in PROMPTS]
    assert "cardiomegaly" not in json.dumps(told)


async def test_unconditional_sampling_is_the_empty_prompt_at_guidance_one(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    response = await generate(sampler, stocked_home, prompts=[""], guidance_scale=1)
    assert response.status_code == 200


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++", "euler"])
async def test_every_scheduler_draws(sampler: httpx.AsyncClient, stocked_home: StockedHome, scheduler: str) -> None:
    assert (await generate(sampler, stocked_home, scheduler=scheduler, prompts=PROMPTS[:1])).status_code == 200


async def test_counts_are_told_on_metrics(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    await generate(sampler, stocked_home)
    text = (await sampler.get("/metrics")).text
    for name in ("lethe_images_generated_total{", "lethe_generation_duration_seconds_count{", "lethe_sampler_batch_size_count"):
        assert name in text
    assert "cardiomegaly" not in text


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("model", ["mdl_0", "../../x", "ds_1"])
async def test_unknown_model_is_named(sampler: httpx.AsyncClient, stocked_home: StockedHome, model: str) -> None:
    response = await generate(sampler, stocked_home, model=model)
    assert (response.status_code, slug(response.json())) == (404, "not-found")
    assert model in response.json()["detail"]


async def test_prompt_over_the_window_is_refused_with_the_limit_and_without_its_words(
    sampler: httpx.AsyncClient, stocked_home: StockedHome
) -> None:
    response = await generate(sampler, stocked_home, prompts=["chest X-ray", "pneumothorax " * 100])
    problem = response.json()
    assert (response.status_code, slug(problem)) == (422, "validation")
    assert "reads 64" in problem["detail"]
    assert problem["errors"][0]["loc"] == ["body", "prompts", "1"]
    assert "pneumothorax" not in response.text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": 1e300}, "guidance_scale"),
        ({"steps": -1}, "steps"),
        ({"steps": 10**30}, "steps"),
        ({"steps": "2"}, "steps"),
        ({"seed": 2**53}, "seed"),
        ({"prompts": ["\ud800"]}, "prompts"),
        ({"prompts": {}}, "prompts"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_number_type_or_field_against_the_schema_is_refused_by_name(
    sampler: httpx.AsyncClient, stocked_home: StockedHome, change: dict[str, Any], field: str
) -> None:
    response = await generate(sampler, stocked_home, **change)
    assert (response.status_code, slug(response.json())) == (422, "validation")
    assert response.json()["errors"][0]["loc"][:2] == ["body", field]


async def test_body_over_the_limit_is_refused(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    response = await generate(sampler, stocked_home, prompts=["a" * 1_100_000])
    assert (response.status_code, slug(response.json())) == (413, "payload-too-large")


async def test_corrupted_weights_are_an_integrity_failure_and_no_image(sampler: httpx.AsyncClient, stocked_home: StockedHome) -> None:
    path = stocked_home.folder / "store" / "models" / stocked_home.model.id / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    response = await generate(sampler, stocked_home)
    assert (response.status_code, slug(response.json())) == (500, "integrity-failed")


@pytest.mark.parametrize("path", ["gen_0", "gen_0/images/0", "x"])
async def test_unknown_generation_is_not_found(sampler: httpx.AsyncClient, path: str) -> None:
    response = await sampler.get(f"/v1/generations/{path}")
    assert (response.status_code, slug(response.json())) == (404, "not-found")


async def test_full_queue_refuses_at_once_and_other_routes_answer(
    sampler: httpx.AsyncClient, stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    begun = threading.Event()

    def wait(_model: Any, conditioning: Any, *_more: Any, **_words: Any) -> Any:
        begun.set()
        release.wait(30)
        return np.zeros((len(conditioning), 32, 32), np.uint8)

    monkeypatch.setattr(studio, "draw_images", wait)
    monkeypatch.setattr(MicroBatcher, "is_saturated", property(lambda batcher: len(batcher._queue) >= 1))
    held = [asyncio.create_task(generate(sampler, stocked_home))]  # this one is drawn
    await asyncio.to_thread(begun.wait, 30)
    held.append(asyncio.create_task(generate(sampler, stocked_home)))  # this one waits
    async with asyncio.timeout(30):
        while (await sampler.get("/readyz")).status_code != 503:  # noqa: ASYNC110 - the queue tells nobody
            await asyncio.sleep(0.01)
    refused = await generate(sampler, stocked_home)
    assert (refused.status_code, slug(refused.json())) == (503, "saturated")
    assert "Retry-After" in refused.headers
    assert (await sampler.get("/livez")).status_code == 200
    release.set()
    assert [response.status_code for response in await asyncio.gather(*held)] == [200, 200]
