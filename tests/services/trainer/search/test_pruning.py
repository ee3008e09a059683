from __future__ import annotations

import pytest

from services.trainer.search.pruning import goes_on
from services.trainer.search.search_spec import Constraint, Pruning
from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate
from tests.services.trainer.search.toy import estimates

ONE: dict[str, Direction] = {"fid": "minimize"}
TWO: dict[str, Direction] = {"memorization": "minimize", "finding_agreement": "maximize"}
HALF = Pruning(rungs=[0.5], keep=0.5, startup=3)


def kept(value: float, others: list[float], rule: Pruning = HALF) -> bool:
    return goes_on(estimates({"fid": value}), [estimates({"fid": other}) for other in others], ONE, rule)


def both(memorization: float, agreement: float) -> dict[str, float]:
    return {"memorization": memorization, "finding_agreement": agreement}


def test_with_one_objective_the_better_half_goes_on() -> None:
    others = [1.0, 2.0, 3.0]
    assert [kept(value, others) for value in (0.5, 1.5, 2.5, 3.5)] == [True, True, False, False]
    assert kept(1.5, [1.0, 2.0, 3.0, 4.0])
    assert kept(2.5, [1.0, 2.0, 3.0, 4.0])  # three of five are kept


def test_nothing_is_ended_until_enough_others_were_seen() -> None:
    assert kept(9.0, [1.0, 2.0])
    assert not kept(9.0, [1.0, 2.0, 3.0])


def test_of_equal_trials_neither_is_behind() -> None:
    assert kept(1.0, [1.0, 1.0, 1.0])


def test_all_are_kept_where_the_share_is_one() -> None:
    assert kept(9.0, [1.0, 2.0, 3.0], Pruning(rungs=[0.5], keep=1.0, startup=1))


def test_the_direction_tells_which_half_is_better() -> None:
    others = [estimates({"amd": value}) for value in (1.0, 2.0, 3.0)]
    assert [goes_on(estimates({"amd": value}), others, {"amd": "maximize"}, HALF) for value in (0.5, 2.5)] == [False, True]


def test_with_several_objectives_dominated_trials_are_ended() -> None:
    others = [estimates(both(*point)) for point in [(0.1, 0.5), (0.3, 0.9), (0.2, 0.1)]]
    assert not goes_on(estimates(both(0.35, 0.4)), others, TWO, HALF)
    assert goes_on(estimates(both(0.05, 0.3)), others, TWO, HALF)
    assert goes_on(estimates(both(0.5, 0.95)), others, TWO, HALF)


def test_among_equals_in_rank_the_crowded_are_ended() -> None:
    others = [estimates(both(*point)) for point in [(0.0, 0.0), (1.0, 1.0), (0.2, 0.2), (-1.0, 2.0)]]  # the last one dominates all
    rule = Pruning(rungs=[0.5], keep=0.75, startup=3)
    assert goes_on(estimates(both(0.6, 0.6)), others, TWO, rule)
    assert not goes_on(estimates(both(0.1, 0.1)), [*others, estimates(both(0.12, 0.12))], TWO, Pruning(rungs=[0.5], keep=0.5, startup=3))


def test_what_no_other_dominates_goes_on_however_crowded() -> None:
    others = [estimates(both(point, point)) for point in (0.0, 0.09, 0.11, 0.12, 1.0)]
    rule = Pruning(rungs=[0.5], keep=0.2, startup=3)
    assert goes_on(estimates(both(0.1, 0.1)), others, TWO, rule)
    assert not goes_on(estimates(both(0.1, 0.08)), others, TWO, rule)


def test_what_breaks_bounds_is_behind_what_keeps_them() -> None:
    bound = [Constraint(reward="memorization", at_most=0.5)]
    others = [estimates(both(*point)) for point in [(0.5, 0.1), (0.4, 0.01), (0.9, 0.9)]]
    best = estimates(both(0.6, 1.0))
    assert goes_on(best, others, TWO, HALF)
    assert not goes_on(best, others, TWO, HALF, bound)
    assert goes_on(estimates(both(0.3, 0.005)), others, TWO, HALF, bound)


def test_bounds_that_are_broken_count_alike_whatever_their_units() -> None:
    bounds = [Constraint(reward="copy_rate", at_most=0.05), Constraint(reward="fid", at_most=30.0)]
    directions: dict[str, Direction] = {"copy_rate": "minimize", "fid": "minimize"}

    def point(copy_rate: float, fid: float) -> dict[str, Estimate]:
        return estimates({"copy_rate": copy_rate, "fid": fid})

    # A little over in fid alone is nearer to all bounds than copying everything, though 2 is more than 0.95.
    others = [point(1.0, 30.0), point(0.9, 31.0), point(0.05, 60.0)]
    assert goes_on(point(0.05, 32.0), others, directions, HALF, bounds)
    assert not goes_on(point(1.0, 30.5), others, directions, HALF, bounds)


@pytest.mark.parametrize("value", [0.1, 5.0])
def test_the_verdict_is_repeated(value: float) -> None:
    assert kept(value, [1.0, 2.0, 3.0]) is kept(value, [3.0, 1.0, 2.0])
