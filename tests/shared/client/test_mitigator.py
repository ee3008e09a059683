"""The mitigator's client: strategies, evidence, refusals."""

from __future__ import annotations

import httpx
import pytest

from shared.client.failures import MitigationProblemError
from shared.client.mitigator import MitigatorClient


def client(response: httpx.Response) -> MitigatorClient:
    return MitigatorClient("http://m", transport=httpx.MockTransport(lambda _request: response))


def test_strategies_are_listed_with_what_the_service_says_of_them() -> None:
    listed = client(httpx.Response(200, json={"items": [{"name": "prompt_generalisation", "paper": "x"}]})).list_strategies()
    assert [strategy.name for strategy in listed] == ["prompt_generalisation"]


def test_image_comes_with_its_evidence() -> None:
    evidence = {"strategy": "auto", "score_before": 1.9, "score_after": 0.8}
    image = {"prompt_index": 0, "seed": 0, "png": "aGk=", "evidence": evidence}
    generation = client(httpx.Response(200, json={"id": "gen_1", "images": [image]})).generate({})
    assert generation.images[0].evidence.score_after == 0.8


def test_refusal_raises_with_its_evidence() -> None:
    problem = {"type": "urn:lethe:problem:mitigation-insufficient", "detail": "none helped", "evidence": [{"strategy": "wen"}]}
    with pytest.raises(MitigationProblemError, match="none helped") as caught:
        client(httpx.Response(409, json=problem)).generate({})
    assert caught.value.evidence == [{"strategy": "wen"}]
