"""Statistics: hand-made vectors with known answers, agreement with scipy and scikit-learn, and intervals that cover."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from shared.memorization.statistics import (
    Group,
    advantage,
    advantage_interval,
    allowed_false_positives,
    auc,
    auc_interval,
    correlation,
    difference_interval,
    empirical_p_values,
    mean_interval,
    patient_weights,
    rate,
    roc,
    threshold_interval,
    tpr_at_fpr,
    tpr_at_fpr_interval,
    upper_threshold,
)

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def patients(count: int, films: int = 1) -> list[str]:
    return [f"patient{i // films:05}" for i in range(count)]


def test_roc_moves_tied_scores_together() -> None:
    curve = roc([3, 2, 2], [2, 1])
    assert curve.thresholds_T.tolist() == [math.inf, 3, 2, 1]
    assert curve.true_positive_rate_T.tolist() == pytest.approx([0, 1 / 3, 1, 1])
    assert curve.false_positive_rate_T.tolist() == [0, 0, 0.5, 1]


def test_auc_counts_ties_half() -> None:
    assert auc([1, 2], [1, 0]) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_auc_of_constant_scores_is_a_half() -> None:
    assert auc([1, 1, 1], [1, 1]) == 0.5


def test_auc_of_wrong_order_is_not_flipped() -> None:
    assert auc([0, 1], [2, 3]) == 0.0


@given(SCORES, SCORES)
def test_auc_equals_scikit_learn(positive: list[float], negative: list[float]) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    assert auc(positive, negative) == pytest.approx(roc_auc_score(truth, positive + negative))


@given(SCORES, SCORES)
def test_auc_equals_the_share_of_ordered_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert auc(positive, negative) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("negatives", "allowed"), [(200, 1), (500, 4), (900, 8), (1000, 9), (1001, 10), (700, 6)])
def test_allowed_false_positives_stay_strictly_below_the_rate(negatives: int, allowed: int) -> None:
    assert allowed_false_positives(negatives) == allowed
    assert allowed / negatives < 0.01 <= (allowed + 1) / negatives


@pytest.mark.parametrize("count", [500, 1000])
def test_tpr_takes_the_last_threshold_strictly_below_the_rate(count: int) -> None:
    allowed = allowed_false_positives(count)
    negatives = np.arange(count, dtype=float)  # the largest is count − 1
    just_allowed = [count - allowed - 0.5]  # `allowed` negatives lie above it
    one_too_low = [count - allowed - 1.5]
    assert tpr_at_fpr(just_allowed, negatives) == 1.0
    assert tpr_at_fpr(one_too_low, negatives) == 0.0


def test_tpr_with_a_tie_at_the_threshold_counts_the_tied_negatives() -> None:
    negatives = [0.0] * 495 + [1.0] * 5  # 5 of 500 is 1 %, not strictly below it
    assert tpr_at_fpr([1.0, 2.0], negatives) == 0.5


def test_tpr_of_constant_scores_is_zero() -> None:
    assert tpr_at_fpr([1.0] * 10, [1.0] * 500) == 0.0


def test_tpr_of_a_hundred_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="negatives must be at least 200"):
        tpr_at_fpr([1.0], [0.0] * 100)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="positives"):
        auc([math.nan], [0.0])


@pytest.mark.parametrize(("count", "flagged"), [(99, 0), (199, 1), (234, 1), (999, 9), (1000, 9)])
def test_upper_threshold_flags_no_more_controls_than_the_rate(count: int, flagged: int) -> None:
    controls = np.arange(count, dtype=float)
    threshold = upper_threshold(controls, 0.01)
    assert (controls >= threshold).sum() == flagged
    assert (1 + flagged) / (count + 1) <= 0.01


def test_upper_threshold_of_too_few_controls_lies_above_them_all() -> None:
    assert upper_threshold([1.0, 5.0, 3.0], 0.01) == math.nextafter(5.0, math.inf)


def test_upper_threshold_keeps_its_promise_on_new_controls() -> None:
    generator = np.random.default_rng(0)
    rates = [(generator.normal(size=5000) >= upper_threshold(generator.normal(size=150), 0.05)).mean() for _ in range(200)]
    assert 0.035 < np.mean(rates) <= 0.052


def test_p_value_of_a_score_above_all_controls_is_the_smallest_possible() -> None:
    controls = [1.0, 2.0, 3.0, 4.0]
    assert empirical_p_values([5.0, 4.0, 2.5, 0.0], controls).tolist() == pytest.approx([1 / 5, 2 / 5, 3 / 5, 1.0])


@pytest.mark.parametrize(("successes", "n"), [(0, 40), (1, 40), (20, 40), (39, 40), (40, 40), (3, 7)])
def test_rate_equals_the_exact_interval_of_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="exact")
    measured = rate(successes, n)
    assert measured == {"value": successes / n, "low": pytest.approx(expected.low), "high": pytest.approx(expected.high), "n": n}


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_rate_of_impossible_counts_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        rate(successes, n)


def test_auc_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    hits = 0
    for seed in range(120):
        positive, negative = generator.normal(1, 1, 60), generator.normal(0, 1, 80)
        measured = auc_interval(Group(positive, patients(60)), Group(negative, patients(80)), seed=seed, resamples=400)
        hits += measured["low"] <= truth <= measured["high"]
    assert 0.88 <= hits / 120 <= 0.99


def test_interval_of_repeated_films_is_that_of_their_patients() -> None:
    generator = np.random.default_rng(2)
    positive, negative = generator.normal(1, 1, 30), generator.normal(0, 1, 50)
    single = auc_interval(Group(positive, patients(30)), Group(negative, patients(50)))
    tripled = auc_interval(Group(np.repeat(positive, 3), patients(90, 3)), Group(np.repeat(negative, 3), patients(150, 3)))
    naive = auc_interval(Group(np.repeat(positive, 3), patients(90)), Group(np.repeat(negative, 3), patients(150)))
    width, width_tripled, width_naive = (m["high"] - m["low"] for m in (single, tripled, naive))
    assert width_tripled == pytest.approx(width)
    assert width_naive < 0.75 * width


def test_auc_interval_equals_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(3)
    positive, negative = generator.normal(0.5, 1, 12).round(1), generator.normal(0, 1, 20).round(1)
    owners_p, owners_n = patients(12, 2), patients(20, 4)
    measured = auc_interval(Group(positive, owners_p), Group(negative, owners_n), seed=5, resamples=300)
    again = np.random.default_rng(5)

    def draw(values: NDArray[np.float64], owners: list[str], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        weight = dict(zip(sorted(set(owners)), counts.tolist(), strict=True))
        return np.repeat(values, [weight[owner] for owner in owners])

    counts_p = again.multinomial(6, [1 / 6] * 6, size=300)
    counts_n = again.multinomial(5, [1 / 5] * 5, size=300)
    values = [auc(draw(positive, owners_p, p), draw(negative, owners_n, n)) for p, n in zip(counts_p, counts_n, strict=True)]
    assert [measured["low"], measured["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    assert measured["value"] == pytest.approx(auc(positive, negative))
    assert measured["n"] == 32


def test_tpr_interval_refits_the_threshold_in_each_resample() -> None:
    negative = np.arange(300, dtype=float)
    positive = [297.5, 298.5, 310.0, 320.0]  # the first has two negatives above it
    measured = tpr_at_fpr_interval(Group(positive, patients(4)), Group(negative, patients(300)))
    assert measured["value"] == 1.0
    assert measured["low"] < 1.0
    assert measured["high"] == 1.0


def test_tpr_interval_of_perfect_separation_is_one() -> None:
    measured = tpr_at_fpr_interval(Group([9.0] * 10, patients(10)), Group(np.linspace(0, 1, 200), patients(200)))
    assert measured == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 10}


def test_mean_interval_narrows_with_patients_not_with_films() -> None:
    values = [0.0, 1.0] * 20
    few = mean_interval(Group(values, patients(40, 10)))
    many = mean_interval(Group(values, patients(40)))
    assert few["value"] == many["value"] == 0.5
    assert few["high"] - few["low"] == pytest.approx(0.0)  # every patient has the same mean
    assert 0.2 < many["high"] - many["low"] < 0.4


@pytest.mark.parametrize(("method", "reference"), [("spearman", stats.spearmanr), ("pearson", stats.pearsonr)])
def test_correlation_equals_scipy(method: str, reference: object) -> None:
    generator = np.random.default_rng(4)
    x = generator.normal(size=50).round(1)
    y = (x + generator.normal(size=50)).round(1)
    measured = correlation(x.tolist(), y.tolist(), patients(50), method=method)  # type: ignore[arg-type]
    assert measured["value"] == pytest.approx(reference(x, y).statistic)  # type: ignore[operator]
    assert measured["low"] < measured["value"] < measured["high"]


def test_spearman_of_resamples_ranks_repeats_as_scipy_does() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 4.0, 5.0]), np.array([2.0, 1.0, 3.0, 3.0, 9.0])
    owners = patients(5)
    measured = correlation(x.tolist(), y.tolist(), owners, method="spearman", seed=7, resamples=200)
    counts = np.random.default_rng(7).multinomial(5, [1 / 5] * 5, size=200)
    usual = [stats.spearmanr(np.repeat(x, c), np.repeat(y, c)).statistic for c in counts if _varied(x, c) and _varied(y, c)]
    assert [measured["low"], measured["high"]] == pytest.approx(np.quantile(usual, [0.025, 0.975]).tolist())


def _varied(values: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    return len(set(values[counts > 0].tolist())) > 1


def test_correlation_of_a_constant_is_refused() -> None:
    with pytest.raises(ValueError, match="constant"):
        correlation([1.0, 1.0], [1.0, 2.0], ["a", "b"], method="pearson")


def test_correlation_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        correlation([1.0, 2.0], [1.0, 2.0, 3.0], ["a", "b"], method="pearson")


def test_two_thousand_resamples_of_a_thousand_prompts_take_seconds() -> None:
    generator = np.random.default_rng(6)
    begun = time.perf_counter()
    auc_interval(Group(generator.normal(size=100), patients(100)), Group(generator.normal(size=1000), patients(1000)))
    assert time.perf_counter() - begun < 10


def test_import_leaves_scipy_alone() -> None:
    script = "import sys, shared.memorization.statistics; print('scipy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False False\n"


def test_threshold_interval_equals_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(8)
    scores, owners = generator.normal(size=120).tolist(), patients(120, 3)
    measured = threshold_interval(Group(scores, owners), 0.05, seed=2, resamples=200)
    counts = np.random.default_rng(2).multinomial(40, [1 / 40] * 40, size=200)
    values = [upper_threshold(np.repeat(scores, np.repeat(count, 3)), 0.05) for count in counts]
    assert [measured["low"], measured["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    assert measured["value"] == upper_threshold(scores, 0.05)
    assert measured["low"] < measured["value"] < measured["high"]


def test_advantage_is_the_largest_distance_of_the_curve_from_the_diagonal() -> None:
    assert advantage([3.0, 4.0], [1.0, 2.0]) == 1
    assert advantage([1.0, 2.0], [3.0, 4.0]) == 0
    assert advantage([1.0, 3.0, 5.0], [2.0, 4.0, 6.0]) == pytest.approx(0)
    assert advantage([1.0, 3.0, 5.0, 7.0], [2.0, 4.0]) == pytest.approx(0.5)  # from 5 on: two of four, none of two


def test_advantage_interval_equals_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(4)
    positive, negative = generator.normal(0.7, 1, 12).round(1), generator.normal(0, 1, 20).round(1)
    names = [f"p{i // 2}" for i in range(12)], [f"n{i}" for i in range(20)]
    found = advantage_interval(Group(positive.tolist(), names[0]), Group(negative.tolist(), names[1]), resamples=200)
    stream = np.random.default_rng(0)
    weights = patient_weights(names[0], stream, 200).astype(int), patient_weights(names[1], stream, 200).astype(int)
    values = [advantage(np.repeat(positive, p), np.repeat(negative, n)) for p, n in zip(*weights, strict=True)]
    assert found["value"] == pytest.approx(advantage(positive, negative))
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert found["n"] == 32


def test_difference_interval_is_that_of_two_means() -> None:
    generator = np.random.default_rng(5)
    positive, negative = generator.normal(2, 1, 400), generator.normal(0, 2, 300)
    found = difference_interval(
        Group(positive.tolist(), [f"p{i}" for i in range(400)]), Group(negative.tolist(), [f"n{i}" for i in range(300)])
    )
    error = math.sqrt(positive.var() / 400 + negative.var() / 300)
    assert found["value"] == pytest.approx(positive.mean() - negative.mean())
    assert found["low"] == pytest.approx(found["value"] - 1.96 * error, abs=0.3 * error)
    assert found["high"] == pytest.approx(found["value"] + 1.96 * error, abs=0.3 * error)
