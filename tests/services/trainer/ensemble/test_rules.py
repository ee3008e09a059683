"""What may be asked of an ensemble."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.trainer.ensemble.rules import EnsembleRule


def rule(**told: object) -> EnsembleRule:
    return EnsembleRule.model_validate({"kind": "iet", **told})


def test_defaults_are_the_published_four_shards_one_after_another() -> None:
    assert rule().model_dump() == {"kind": "iet", "shards": 4, "rounds": 10, "redistribute": None, "parallel": 1}


@pytest.mark.parametrize(
    ("told", "field", "reason"),
    [
        ({"shards": 0}, "shards", "greater than or equal to 1"),
        ({"rounds": 0}, "rounds", "greater than or equal to 1"),
        ({"redistribute": 0.6}, "redistribute", "less than or equal to 0.5"),
        ({"redistribute": 0.0}, "redistribute", "greater than 0"),
        ({"redistribute": 0.05, "shards": 1}, "redistribute", "there is one"),
        ({"redistribute": 0.05, "rounds": 3}, "redistribute", "take 4 rounds or more"),
        ({"parallel": 5}, "parallel", "there are 4 shards"),
        ({"kind": "bagging"}, "kind", "'iet'"),
        ({"epochs": 3}, "epochs", "not permitted"),
    ],
)
def test_what_cannot_work_is_refused_by_field(told: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        rule(**told)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_nobody_moves_after_the_first_two_rounds_and_the_last() -> None:
    assert [done for done in range(1, 7) if rule(rounds=6, redistribute=0.05).moves_after(done)] == [3, 4, 5]
    assert [done for done in range(1, 7) if rule(rounds=6).moves_after(done)] == []
