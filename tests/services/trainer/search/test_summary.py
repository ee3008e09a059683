from __future__ import annotations

import json

import pytest

from services.trainer.search.rules import Rules
from services.trainer.search.space import Choice, Space
from services.trainer.search.summary import summarise
from services.trainer.search.trial import Trial
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, ended, estimates, spec_of

SPEC = spec_of(vary={"batch_filter": [None, {"kind": "anti_gradient"}]})
SPACE, RULES = Space.of(SPEC, MODULES), Rules.of(SPEC, DIRECTIONS)
SMALL = Choice(kind="svdiff", mask=[0, 1, 0, 0, 0, 1], learning_rate=1e-4, batch_filter=1)
LARGE = Choice(kind="svdiff", mask=[1, 1, 1, 1, 1, 1], learning_rate=1e-3, batch_filter=0)


def trials() -> list[Trial]:
    small = ended(0, SMALL, {"memorization": 0.1, "finding_agreement": 0.5})
    return [
        small.model_copy(update={"model": "mdl_7t0000", "trainable_parameters": 12, "trainable_fraction": 0.25}),
        ended(1, LARGE, {"memorization": 0.4, "finding_agreement": 0.6}),
        ended(2, LARGE.model_copy(update={"learning_rate": 1e-5}), {"memorization": 0.5, "finding_agreement": 0.5}),
        Trial(number=3, choice=LARGE.model_copy(update={"batch_filter": 1}), state="failed", steps=7, reason="loss is no number"),
    ]


def test_a_point_tells_what_was_chosen_by_names_too() -> None:
    point = summarise(SPACE, RULES, trials())["pareto"][0]
    rule = point.pop("batch_filter")
    assert rule["kind"] == "anti_gradient"
    assert point == {
        "trial": 0,
        "kind": "svdiff",
        "mask": [0, 1, 0, 0, 0, 1],
        "blocks": [MODULES[1], MODULES[5]],
        "ranks": None,
        "learning_rate": 1e-4,
        "captions": [],
        "values": {"memorization": 0.1, "finding_agreement": 0.5},
        "intervals": {"memorization": [0.0, 0.2], "finding_agreement": [0.4, 0.6]},
        "trainable_parameters": 12,
        "trainable_fraction": 0.25,
        "model": "mdl_7t0000",
    }


def test_a_summary_tells_the_front_and_how_it_grew() -> None:
    found = summarise(SPACE, RULES, trials())
    assert [point["trial"] for point in found["pareto"]] == [0, 1]
    assert found["recommended"] == found["pareto"][0] | {"rule": found["recommended"]["rule"]}
    assert [steps for steps, _ in found["hypervolume"]] == [100, 200, 300, 307]
    assert found["reference_point"] == {"memorization": pytest.approx(0.54), "finding_agreement": pytest.approx(0.49)}
    assert found["hypervolume"][0][1] == pytest.approx(0.44 * 0.01 / (0.44 * 0.11))
    assert found["trials"] == {"running": 0, "succeeded": 3, "pruned": 0, "failed": 1, "cancelled": 0}
    assert (found["steps"], found["objectives"], found["modules"]) == (307, DIRECTIONS, MODULES)
    assert found["modules_digest"] == SPACE.modules_digest
    assert "there are 3" in found["importance"]["reason"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_search_that_has_begun_has_a_summary() -> None:
    found = summarise(SPACE, RULES, [])
    assert (found["pareto"], found["recommended"], found["hypervolume"], found["reference_point"]) == ([], None, [], None)
    assert (found["base"], found["floors"]) == (None, None)


def test_what_the_untuned_base_and_real_films_score_stands_beside_the_front() -> None:
    found = summarise(SPACE, RULES, trials(), base=estimates({"memorization": 0.3}), floors={"fid": 1.5})
    assert found["base"] == {"values": {"memorization": 0.3}, "intervals": {"memorization": [pytest.approx(0.2), pytest.approx(0.4)]}}
    assert found["floors"] == {"fid": 1.5}
