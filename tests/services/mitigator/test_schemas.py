"""The mitigator's wire: defaults, and the sampler's bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest
from pydantic import ValidationError

from services.mitigator.mitigation import Evidence
from services.mitigator.schemas import EvidenceReply, GenerationRequest
from services.sampler.schemas import GenerationRequest as SamplerRequest


def test_request_of_model_and_prompt_gets_the_contracts_defaults() -> None:
    request = GenerationRequest(model="mdl_1", prompts=["a"])
    assert request.model_dump() == {
        "model": "mdl_1",
        "prompts": ["a"],
        "images_per_prompt": 1,
        "steps": 50,
        "guidance_scale": 7.5,
        "scheduler": "ddim",
        "seed": 0,
        "output": "inline",
        "format": "png",
        "mitigation": {"strategy": "auto", "parameters": {}},
    }


def test_request_is_the_samplers_with_a_mitigation() -> None:
    ours, theirs = (model.model_json_schema()["properties"] for model in (GenerationRequest, SamplerRequest))
    assert set(ours) == {*theirs, "mitigation"}
    for name in ("images_per_prompt", "steps", "guidance_scale", "seed", "scheduler"):
        bounds = [{key: value for key, value in schema[name].items() if key not in {"description", "title"}} for schema in (ours, theirs)]
        assert bounds[0] == bounds[1], name


def test_reply_tells_all_evidence() -> None:
    assert list(EvidenceReply.model_fields) == [entry.name for entry in fields(Evidence)]


def test_nothing_unknown_is_let_in() -> None:
    with pytest.raises(ValidationError):
        GenerationRequest.model_validate({"model": "m", "prompts": ["a"], "mitigation": {"strategy": "auto", "policy": 1}})
