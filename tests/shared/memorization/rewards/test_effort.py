"""How thoroughly a model is measured."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.memorization.rewards.effort import Effort


def test_effort_without_wishes_is_the_documented_one() -> None:
    assert Effort().model_dump(mode="json") == {
        "images_per_canary": 4,
        "control_prompts": 64,
        "sampling_steps": 20,
        "guidance_scale": 4.0,
        "noises": 4,
        "seed": 0,
    }


@pytest.mark.parametrize(
    "wish", [{"images_per_canary": 0}, {"control_prompts": 1}, {"sampling_steps": True}, {"guidance_scale": float("nan")}, {"images": 4}]
)
def test_effort_of_no_use_is_refused(wish: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Effort.model_validate(wish)
