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
    told = {"kind": "lora", "mask": [1, 0], "learning_rate": 1e-4}
    assert KINDS.dump_python(KINDS.validate_python(told)) == told | {"blocks": None, "rank": 4, "ranks": None, "alpha": None}


def test_what_stays_as_it_is_makes_a_kind_partial() -> None:
    partial = [({"kind": "full"}, False), ({"kind": "full", "learning_rate": 1e-4}, False), ({"kind": "full", "mask": [1]}, True)]
    partial += [({"kind": "full", "blocks": []}, True), ({"kind": "lora"}, True)]
    partial += [({"kind": "lora", "ranks": [0, 2]}, True)]
    assert [KINDS.validate_python(told).is_partial for told, _ in partial] == [expected for _, expected in partial]


def test_ranks_say_which_modules_take_part() -> None:
    told = [KINDS.validate_python(told) for told in ({"kind": "lora", "ranks": [0, 2]}, {"kind": "lora", "mask": [0, 1]}, {"kind": "lora"})]
    assert [(parameters.names_modules, parameters.by_module) for parameters in told] == [
        (True, ("ranks", [0, 2])),
        (True, ("mask", [0, 1])),
        (False, None),
    ]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"kind": "loha"},
        {"kind": "lora", "rank": 0},
        {"kind": "lora", "alpha": 0},
        {"kind": "lora", "blocks": []},
        {"kind": "lora", "mask": [0, 0]},
        {"kind": "lora", "ranks": []},
        {"kind": "lora", "ranks": [0, 0]},
        {"kind": "lora", "ranks": [2, -1]},
        {"kind": "lora", "ranks": [2, 0], "rank": 8},
        {"kind": "lora", "ranks": [2, 0], "mask": [1, 0]},
        {"kind": "lora", "ranks": [2, 0], "blocks": ["mid_block.attentions.0"]},
        {"kind": "svdiff", "ranks": [2, 0]},
        {"kind": "full", "rank": 4},
        {"kind": "full", "learning_rate": 0},
        {"kind": "full", "norm_learning_rate": 1e-6},
        {"kind": "full", "blocks": ["mid_block.attentions.0"], "mask": [1]},
        {"kind": "full", "blocks": [], "mask": [1]},
        {"kind": "full", "mask": []},
        {"kind": "svdiff", "mask": [2]},
        {"kind": "svdiff", "mask": [0.5]},
        {"kind": "svdiff", "mask": "10"},
        {"kind": "attention", "blocks": []},
        {"kind": "attention", "mask": [0]},
        {"kind": "attention", "blocks": ["../etc"]},
        {"kind": "attention", "blocks": ["a.b"] * 101},
    ],
)
def test_anything_else_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KINDS.validate_python(told)
