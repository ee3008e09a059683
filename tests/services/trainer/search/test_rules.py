from __future__ import annotations

from services.trainer.search.rules import Rules, excess_spans, figures
from tests.services.trainer.search.toy import DIRECTIONS, estimates, spec_of

CONSTRAINTS = [{"reward": "copy_rate", "at_most": 0.2}, {"reward": "finding_agreement", "at_least": 0.5}]


def test_losses_are_less_where_objectives_are_better_in_their_order() -> None:
    rules = Rules.of(spec_of(objectives=["finding_agreement", "memorization"]), DIRECTIONS)
    assert rules.losses({"memorization": 0.3, "finding_agreement": 0.8, "fid": 9.0}) == [-0.8, 0.3]


def test_bounds_are_broken_by_how_far_a_figure_lies_beyond() -> None:
    rules = Rules.of(spec_of(constraints=CONSTRAINTS), DIRECTIONS)
    assert list(rules.violations({"copy_rate": 0.5, "finding_agreement": 0.6}).values()) == [0.3, -0.09999999999999998]
    assert not rules.keeps_bounds({"copy_rate": 0.5, "finding_agreement": 0.6})
    assert not rules.keeps_bounds({"copy_rate": 0.1, "finding_agreement": 0.4})
    assert rules.keeps_bounds({"copy_rate": 0.2, "finding_agreement": 0.5})


def test_two_bounds_on_one_reward_make_a_band() -> None:
    band = [{"reward": "memorization", "at_most": 0.2}, {"reward": "memorization", "at_least": 0.1}]
    rules = Rules.of(spec_of(constraints=band), DIRECTIONS)
    assert [rules.keeps_bounds({"memorization": value}) for value in (0.05, 0.15, 0.25)] == [False, True, False]


def test_excesses_are_told_in_spans_of_their_own() -> None:
    rules = Rules.of(spec_of(constraints=CONSTRAINTS), DIRECTIONS)
    points = [{"copy_rate": rate, "finding_agreement": agreement} for rate, agreement in ((0.1, 0.9), (0.6, 0.5), (0.4, 0.1))]
    assert list(excess_spans(points, rules.constraints).values()) == [0.39999999999999997, 0.4]
    assert list(excess_spans(points[:1], rules.constraints).values()) == [1.0, 1.0]  # where nothing is broken, or nothing known
    assert list(excess_spans([], rules.constraints).values()) == [1.0, 1.0]


def test_figures_are_estimates_without_intervals() -> None:
    assert figures(estimates({"fid": 2.0, "kid": 0.5})) == {"fid": 2.0, "kid": 0.5}
