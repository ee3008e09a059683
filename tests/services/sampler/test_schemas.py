"""The sampler on the wire."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from services.sampler.schemas import GenerationRequest, Scheduler
from shared.diffusion.schedulers import SchedulerName

REQUEST: dict[str, Any] = {"model": "mdl_1", "prompts": ["chest X-ray"]}


def test_request_without_wishes_is_the_documented_one() -> None:
    assert GenerationRequest.model_validate(REQUEST).model_dump() == {
        **REQUEST,
        "images_per_prompt": 1,
        "steps": 50,
        "guidance_scale": 7.5,
        "scheduler": "ddim",
        "seed": 0,
        "output": "inline",
        "format": "png",
    }


def test_schedulers_on_the_wire_are_those_of_the_loop() -> None:
    assert get_args(Scheduler) == get_args(SchedulerName)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": []},
        {"prompts": ["a"] * 65},
        {"prompts": ["a" * 2001]},
        {"prompts": [1]},
        {"prompts": "a"},
        {"prompts": ["a\0"]},
        {"images_per_prompt": 0},
        {"images_per_prompt": 17},
        {"steps": 0},
        {"steps": 201},
        {"steps": 2.0},
        {"steps": True},
        {"guidance_scale": -0.1},
        {"guidance_scale": 30.1},
        {"guidance_scale": float("nan")},
        {"guidance_scale": "7"},
        {"scheduler": "pndm"},
        {"seed": -1},
        {"seed": 2**53},
        {"output": "file"},
        {"format": "dicom"},
        {"other": 1},
    ],
)
def test_request_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerationRequest.model_validate({**REQUEST, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["a"] * 64},
        {"prompts": ["a" * 2000]},
        {"prompts": [""]},
        {"images_per_prompt": 16},
        {"steps": 200},
        {"guidance_scale": 0},
        {"guidance_scale": 30},
        {"seed": 2**53 - 1},
    ],
)
def test_request_at_its_bounds_is_taken(change: dict[str, Any]) -> None:
    assert GenerationRequest.model_validate({**REQUEST, **change})
