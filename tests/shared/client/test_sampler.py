"""The sampler's client asks the route of the contract."""

from __future__ import annotations

import json

import httpx

from shared.client.sampler import SamplerClient


def test_generation_sends_the_request_and_reads_the_images() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/generations"
        assert json.loads(request.content) == {"model": "mdl_1", "prompts": ["a"]}
        image = {"prompt_index": 0, "seed": 5, "png": "aGk=", "uri": None, "sha256": "00"}
        return httpx.Response(200, json={"id": "gen_1", "images": [image]})

    generation = SamplerClient("http://s", transport=httpx.MockTransport(answer)).generate({"model": "mdl_1", "prompts": ["a"]})
    assert [(image.seed, image.png) for image in generation.images] == [(5, "aGk=")]
