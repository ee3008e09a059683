"""Who goes on, and whose model is kept."""

from __future__ import annotations

import pytest

from services.trainer.search.rules import Rules
from services.trainer.search.verdicts import goes_on_by, is_on_front
from tests.services.trainer.search.toy import DIRECTIONS, estimates, spec_of


def point(memorization: float, agreement: float) -> dict[str, float]:
    return {"memorization": memorization, "finding_agreement": agreement}


def test_trial_behind_the_others_ends_where_the_search_prunes() -> None:
    pruning, none = (Rules.of(spec_of(pruning=rule), DIRECTIONS) for rule in ({"startup": 1, "keep": 0.5}, None))
    poor, good = estimates(point(0.9, 0.1)), estimates(point(0.1, 0.9))
    assert not goes_on_by(pruning, poor, [good])
    assert goes_on_by(pruning, good, [poor])
    assert goes_on_by(none, poor, [good])


@pytest.mark.parametrize(
    ("finished", "is_kept"),
    [
        ([], True),
        ([(0.1, 0.6)], False),
        ([(0.1, 0.4)], True),
        ([(0.05, 0.9)], True),  # which breaks the bound
        ([(0.2, 0.5)], True),  # the same
    ],
)
def test_model_is_kept_of_what_nothing_that_counts_is_better_than(finished: list[tuple[float, float]], *, is_kept: bool) -> None:
    rules = Rules.of(spec_of(constraints=[{"reward": "finding_agreement", "at_most": 0.8}]), DIRECTIONS)
    assert is_on_front(rules, point(0.2, 0.5), [point(*each) for each in finished]) is is_kept
    assert not is_on_front(rules, point(0.2, 0.9), [])
