"""What may be said of parameters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from services.trainer.parameters.kinds import AnyParameters, AttentionParameters

KINDS: TypeAdapter[AnyParameters] = TypeAdapter(AnyParameters)


def test_kind_decides() -> None:
    told = {"kind": "attention", "blocks": ["down_blocks.0.attentions.1"]}
    assert KINDS.validate_python(told) == AttentionParameters(kind="attention", blocks=["down_blocks.0.attentions.1"])
    assert KINDS.dump_python(KINDS.validate_python({"kind": "bias_norm"})) == {"kind": "bias_norm"}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"kind": "lora"},
        {"kind": "full", "blocks": None},
        {"kind": "attention", "blocks": []},
        {"kind": "attention", "blocks": ["../etc"]},
        {"kind": "attention", "blocks": ["a.b"] * 101},
    ],
)
def test_anything_else_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KINDS.validate_python(told)
