"""How good a score is and how sure we are: ROC, AUC, TPR at a false-positive rate, thresholds, correlations, intervals.

Larger scores mean more memorized, always; labels are never flipped. The unit of resampling is the patient.
P positives, N negatives or prompts, G patients, R resamples, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypedDict  # typing's own is read by pydantic from Python 3.12 on

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
MIN_NEGATIVES: Final = 200  # fewer leave one false positive at most under 1 %, which says nothing
_BLOCK: Final = 4_000_000  # numbers of one block of resamples: 32 MB

Floats = NDArray[np.float64]


class Estimate(TypedDict):
    """A figure with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Roc:
    """The points of a ROC curve: a case is called positive when its score is ≥ the threshold; the first threshold is +inf."""

    thresholds_T: Floats
    false_positive_rate_T: Floats
    true_positive_rate_T: Floats


@dataclass(frozen=True)
class Group:
    """Scores of one class with the patient of each; prompts of one patient are resampled together."""

    scores: Sequence[float]
    patients: Sequence[str]


# ---------------------------------------------------------------- curves


def roc(positives: ArrayLike, negatives: ArrayLike) -> Roc:
    """Every distinct score is a threshold; tied scores move together (Fawcett 2006)."""
    positive, negative = _scores(positives, "positives"), _scores(negatives, "negatives")
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([positive, negative]))[::-1]])
    return Roc(thresholds, _share_reaching(negative, thresholds), _share_reaching(positive, thresholds))


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """The probability that a positive scores above a negative, ties counted half (Mann & Whitney 1947)."""
    curve = roc(positives, negatives)
    return float(np.trapezoid(curve.true_positive_rate_T, curve.false_positive_rate_T))


def advantage(positives: ArrayLike, negatives: ArrayLike) -> float:
    """How far TPR lies above FPR at the best threshold: what an attacker who knows nothing else gains (Yeom et al., CSF 2018)."""
    curve = roc(positives, negatives)
    return float((curve.true_positive_rate_T - curve.false_positive_rate_T).max())


def tpr_at_fpr(positives: ArrayLike, negatives: ArrayLike, false_positive_rate: float = 0.01) -> float:
    """The highest TPR among ROC points whose FPR lies strictly below the rate; refused for fewer than 200 negatives."""
    _require_negatives(len(_scores(negatives, "negatives")))
    curve = roc(positives, negatives)
    return float(curve.true_positive_rate_T[curve.false_positive_rate_T < false_positive_rate].max())


def allowed_false_positives(negatives: int, false_positive_rate: float = 0.01) -> int:
    """How many of so many negatives `tpr_at_fpr` lets pass: ⌈rate · n⌉ − 1."""
    # The product of a decimal rate and a count may lie a rounding error above the whole number that is meant.
    return math.ceil(round(false_positive_rate * negatives, 9)) - 1


def upper_threshold(controls: ArrayLike, false_positive_rate: float) -> float:
    """The lowest t at which flagging scores ≥ t flags a new control with at most this probability (split conformal bound).

    t lies just above the k-th largest control score, k = ⌊rate · (n+1)⌋; with too few controls for the rate, above them all.
    """
    ordered = np.sort(_scores(controls, "controls"))[::-1]
    return math.nextafter(float(ordered[threshold_rank(len(ordered), false_positive_rate) - 1]), math.inf)


def threshold_rank(controls: int, false_positive_rate: float) -> int:
    """Which of so many controls, the first being the most extreme, a threshold lies just beyond."""
    return min(max(1, math.floor(round(false_positive_rate * (controls + 1), 9))), controls)


def empirical_p_values(scores: ArrayLike, controls: ArrayLike) -> Floats:
    """p = (1 + #{control ≥ score}) / (n + 1) for each score."""
    known = np.sort(_scores(controls, "controls"))
    reaching = len(known) - np.searchsorted(known, np.asarray(scores, dtype=np.float64), side="left")
    return np.asarray((1 + reaching) / (len(known) + 1))


# ---------------------------------------------------------------- intervals


def rate(successes: int, n: int) -> Estimate:
    """A proportion with its exact two-sided interval (Clopper & Pearson 1934); none in n gives an upper bound of about 3.7/n."""
    from scipy.special import betaincinv  # a third of a second at import, needed for nothing else

    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must lie between 0 and n, and n must not be 0: {successes} of {n}")
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(value=successes / n, low=low, high=high, n=n)


def auc_interval(positives: Group, negatives: Group, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """AUC with its percentile bootstrap interval; patients are drawn within each class."""
    positive, negative = _scores(positives.scores, "positives"), _scores(negatives.scores, "negatives")
    order_PN = (positive[:, None] > negative[None]) + 0.5 * (positive[:, None] == negative[None])

    def resampled(weights_RP: Floats, weights_RN: Floats) -> Floats:
        correct = ((weights_RP @ order_PN) * weights_RN).sum(1)
        return np.asarray(correct / (weights_RP.sum(1) * weights_RN.sum(1)))

    values = _two_class_bootstrap(positives, negatives, resampled, seed=seed, resamples=resamples)
    return estimate_of(auc(positive, negative), values, len(positive) + len(negative))


def tpr_at_fpr_interval(
    positives: Group, negatives: Group, false_positive_rate: float = 0.01, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """TPR at an FPR with its percentile bootstrap interval; the threshold is refitted in each resample."""
    positive, negative = _scores(positives.scores, "positives"), _scores(negatives.scores, "negatives")
    value = tpr_at_fpr(positive, negative, false_positive_rate)
    # From high to low; a threshold matters only where a positive stands.
    thresholds = np.unique(positive)[::-1]
    reached_PT = (positive[:, None] >= thresholds[None]).astype(np.float64)
    reached_NT = (negative[:, None] >= thresholds[None]).astype(np.float64)

    def resampled(weights_RP: Floats, weights_RN: Floats) -> Floats:
        true_RT = (weights_RP @ reached_PT) / weights_RP.sum(1, keepdims=True)
        false_RT = (weights_RN @ reached_NT) / weights_RN.sum(1, keepdims=True)
        return np.asarray(np.where(false_RT < false_positive_rate, true_RT, 0.0).max(1))

    values = _two_class_bootstrap(positives, negatives, resampled, seed=seed, resamples=resamples)
    return estimate_of(value, values, len(positive))


def advantage_interval(positives: Group, negatives: Group, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The advantage with its percentile bootstrap interval; the threshold is refitted in each resample.

    The best of many thresholds lies above 0 by chance, the more so the fewer cases there are.
    """
    positive, negative = _scores(positives.scores, "positives"), _scores(negatives.scores, "negatives")
    thresholds = np.unique(positive)  # the best one is where a positive stands
    reached_PT = (positive[:, None] >= thresholds[None]).astype(np.float64)
    reached_NT = (negative[:, None] >= thresholds[None]).astype(np.float64)

    def resampled(weights_RP: Floats, weights_RN: Floats) -> Floats:
        true_RT = (weights_RP @ reached_PT) / weights_RP.sum(1, keepdims=True)
        false_RT = (weights_RN @ reached_NT) / weights_RN.sum(1, keepdims=True)
        return np.asarray((true_RT - false_RT).max(1).clip(min=0))

    values = _two_class_bootstrap(positives, negatives, resampled, seed=seed, resamples=resamples)
    return estimate_of(advantage(positive, negative), values, len(positive) + len(negative))


def difference_interval(positives: Group, negatives: Group, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """How far the mean of the positives lies above that of the negatives, with its percentile bootstrap interval."""
    positive, negative = _scores(positives.scores, "positives"), _scores(negatives.scores, "negatives")

    def resampled(weights_RP: Floats, weights_RN: Floats) -> Floats:
        return np.asarray(weights_RP @ positive / weights_RP.sum(1) - weights_RN @ negative / weights_RN.sum(1))

    values = _two_class_bootstrap(positives, negatives, resampled, seed=seed, resamples=resamples)
    return estimate_of(float(positive.mean() - negative.mean()), values, len(positive) + len(negative))


def threshold_interval(controls: Group, false_positive_rate: float, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The threshold of `upper_threshold` with its percentile bootstrap interval by patient."""
    scores = _scores(controls.scores, "controls")
    weights_RN = patient_weights(controls.patients, np.random.default_rng(seed), resamples)
    order_N = np.argsort(scores)[::-1]
    rank_R1 = np.maximum(1, np.floor(np.round(false_positive_rate * (weights_RN.sum(1, keepdims=True) + 1), 9)))
    reached_R = (np.cumsum(weights_RN[:, order_N], axis=1) >= rank_R1).argmax(1)
    return estimate_of(upper_threshold(scores, false_positive_rate), scores[order_N][reached_R], len(scores))


def mean_interval(group: Group, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """A mean (of agreements, of verdicts as 0 and 1) with its percentile bootstrap interval by patient."""
    values = _scores(group.scores, "scores")
    weights_RN = patient_weights(group.patients, np.random.default_rng(seed), resamples)
    return estimate_of(float(values.mean()), weights_RN @ values / weights_RN.sum(1), len(values))


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    patients: Sequence[str],
    *,
    method: Literal["spearman", "pearson"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Correlation of two figures of the same cases, with its percentile bootstrap interval by patient; ranks are made anew each time."""
    first, second = _scores(x, "x"), _scores(y, "y")
    if not len(first) == len(second) == len(patients):
        raise ValueError("x, y and patients must have the same length")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise ValueError("x or y is constant: their correlation is undefined")
    measured = _weighted_spearman if method == "spearman" else _weighted_pearson
    value = measured(first, second, np.ones((1, len(first))))[0]
    weights_RN = patient_weights(patients, np.random.default_rng(seed), resamples)
    values = measured(first, second, weights_RN)
    return estimate_of(float(value), values[np.isfinite(values)], len(first))  # a resample of one value only has no correlation


# ---------------------------------------------------------------- inside


def _scores(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a list of finite numbers, at least one")
    return array


def _require_negatives(count: int) -> None:
    if count < MIN_NEGATIVES:
        raise ValueError(f"negatives must be at least {MIN_NEGATIVES} for a TPR at a small FPR to mean anything, not {count}")


def _share_reaching(scores: Floats, thresholds_T: Floats) -> Floats:
    """The share of scores ≥ each threshold."""
    below_T = np.searchsorted(np.sort(scores), thresholds_T, side="left")
    return np.asarray((len(scores) - below_T) / len(scores))


def patient_weights(patients: Sequence[str], generator: np.random.Generator, resamples: int) -> Floats:
    """How often each case appears in each resample, R×N: patients are drawn with replacement, their cases follow."""
    names, member_N = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    counts_RG = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.asarray(counts_RG[:, member_N], dtype=np.float64)


def _two_class_bootstrap(
    positives: Group, negatives: Group, statistic: Callable[[Floats, Floats], Floats], *, seed: int, resamples: int
) -> Floats:
    """The statistic of every resample, in blocks that bound the memory."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(len(positives.scores), len(negatives.scores)))
    values = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        weights_RP = patient_weights(positives.patients, generator, count)
        weights_RN = patient_weights(negatives.patients, generator, count)
        values.append(statistic(weights_RP, weights_RN))
    return np.concatenate(values)


def _weighted_pearson(x: Floats, y: Floats, weights_RN: Floats) -> Floats:
    """Pearson's r in every resample; nan where a resample holds one value only."""
    return _pearson_of_rows(np.broadcast_to(x, weights_RN.shape), np.broadcast_to(y, weights_RN.shape), weights_RN)


def _weighted_spearman(x: Floats, y: Floats, weights_RN: Floats) -> Floats:
    """Spearman's ρ: Pearson's r of the mid-ranks within each resample."""
    return _pearson_of_rows(_mid_ranks(x, weights_RN), _mid_ranks(y, weights_RN), weights_RN)


def _pearson_of_rows(x_RN: Floats, y_RN: Floats, weights_RN: Floats) -> Floats:
    total_R1 = weights_RN.sum(1, keepdims=True)
    dx = x_RN - (weights_RN * x_RN).sum(1, keepdims=True) / total_R1
    dy = y_RN - (weights_RN * y_RN).sum(1, keepdims=True) / total_R1
    scale = np.sqrt((weights_RN * dx**2).sum(1) * (weights_RN * dy**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(scale > 0, (weights_RN * dx * dy).sum(1) / scale, np.nan).clip(-1, 1))


def _mid_ranks(values: Floats, weights_RN: Floats) -> Floats:
    """Rank of each case in each resample, tied cases (and repeats of one case) sharing the middle of their ranks."""
    _, group_N = np.unique(values, return_inverse=True)
    starts = np.searchsorted(np.sort(group_N), np.arange(group_N.max() + 1))
    size_RT = np.add.reduceat(weights_RN[:, np.argsort(group_N, kind="stable")], starts, axis=1)
    middle_RT = np.cumsum(size_RT, axis=1) - (size_RT - 1) / 2
    return np.asarray(middle_RT[:, group_N])


def estimate_of(value: float, resampled: Floats, n: int) -> Estimate:
    """A figure with the percentiles of its resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=n)
