"""Strategies by name, and requests for them that are refused without repeating what was sent."""

from __future__ import annotations

from typing import Any

import pytest

from services.mitigator.embedding_optimisation import EmbeddingOptimisation
from services.mitigator.guidance_timing import GuidanceTiming
from services.mitigator.mitigation import automatic_ladder
from services.mitigator.prompt_generalisation import PromptGeneralisation
from services.mitigator.registry import STRATEGIES, ladder_of
from shared.errors import InvalidRequestError


def test_every_strategy_is_known_by_its_own_name() -> None:
    assert {name: entry.strategy for name, entry in STRATEGIES.items()} == {
        "prompt_generalisation": PromptGeneralisation,
        "embedding_optimisation": EmbeddingOptimisation,
        "guidance_timing": GuidanceTiming,
    }


def test_auto_is_the_automatic_ladder() -> None:
    names = [tuple(s.name for s in composition) for composition in ladder_of("auto", {})]
    assert names == [tuple(s.name for s in composition) for composition in automatic_ladder()]
    assert names[0] == ()


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("prompt_generalisation", {"wording": False}, {"everything": False, "wording": False}),
        ("guidance_timing", {"variant": "static", "switch": 350}, {"variant": "static", "switch": 350}),
        ("embedding_optimisation", {"learning_rate": 1}, {"learning_rate": 1.0, "max_iterations": 10, "target": None}),
    ],
)
def test_named_strategy_is_made_with_its_parameters(name: str, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    ((strategy,),) = ladder_of(name, parameters)
    made: Any = strategy
    assert isinstance(made, STRATEGIES[name].strategy)
    assert made.parameters.model_dump() == expected


@pytest.mark.parametrize(
    ("name", "parameters", "field", "message"),
    [
        ("secret words", {}, "mitigation.strategy", "there are auto, prompt_generalisation, embedding_optimisation, guidance_timing"),
        ("auto", {"secret words": 1}, "mitigation.parameters", "takes no parameters"),
        ("guidance_timing", {"secret words": 1}, "mitigation.parameters", "no such parameter; it has variant, switch"),
        ("guidance_timing", {"variant": "secret words"}, "mitigation.parameters.variant", "variant: Input should be 'static'"),
        ("guidance_timing", {"switch": 3.5}, "mitigation.parameters.switch", "switch: Input should be a valid integer"),
        ("guidance_timing", {"switch": True}, "mitigation.parameters.switch", "switch: Input should be a valid integer"),
        ("guidance_timing", {"switch": 1001}, "mitigation.parameters.switch", "less than or equal to 1000"),
        ("embedding_optimisation", {"target": float("nan")}, "mitigation.parameters.target", "finite"),
        ("embedding_optimisation", {"learning_rate": float("inf")}, "mitigation.parameters.learning_rate", "finite"),
        ("embedding_optimisation", {"max_iterations": 10**9}, "mitigation.parameters.max_iterations", "less than or equal to 200"),
        ("prompt_generalisation", {"wording": "secret words"}, "mitigation.parameters.wording", "boolean"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(name: str, parameters: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as refused:
        ladder_of(name, parameters)
    assert refused.value.field == field
    assert "secret" not in str(refused.value)
