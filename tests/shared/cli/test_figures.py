"""Figures have the wider interval, say when they cannot be told, and promises are judged by them."""

from __future__ import annotations

import pytest

from shared.cli.figures import copy_share, judge_targets, mean_agreement, measure_copying, measure_detection, measure_fidelity, share
from shared.cli.report import Draw, PromptRow
from shared.memorization import statistics


def row(number: int, *, group: str, score: float, copies: int = 0, images: int = 1, similarity: float = 0.3) -> PromptRow:
    plain = [Draw(seed=j, similarity=similarity, verdict="copy" if j < copies else "none", agreement=0.8) for j in range(images)]
    fields = {"record": number, "patient": f"{group}-{number}", "group": group, "prompt": "p", "score": score}
    return PromptRow.model_validate({**fields, "p_value": 0.5, "decision": "allow", "plain": plain})


CANARIES = [row(n, group="canary", score=3 + n / 10, copies=4, images=4, similarity=0.95 + n / 1000) for n in range(10)]
CONTROLS = [row(n, group="control", score=1 + (n * 7 % 250) / 250, similarity=0.2 + (n * 3 % 250) / 1000) for n in range(250)]


def test_share_without_events_keeps_the_exact_bound() -> None:
    figure = share([f"p{n}" for n in range(40)], [False] * 40, seed=0)
    assert (figure.value, figure.low, figure.n) == (0.0, 0.0, 40)
    assert figure.high == pytest.approx(statistics.rate(0, 40)["high"])


def test_share_of_alike_images_of_few_patients_is_as_wide_as_the_patients_allow() -> None:
    patients = ["a"] * 20 + ["b"] * 20
    figure = share(patients, [True] * 20 + [False] * 20, seed=0)
    assert (figure.low, figure.high) == (0.0, 1.0)
    exact = statistics.rate(20, 40)
    assert exact["low"] > 0.3


def test_share_of_nothing_has_a_reason() -> None:
    figure = share([], [], seed=0)
    assert (figure.value, figure.n, figure.reason) == (None, 0, "no cases")


def test_copies_are_counted_by_verdict_alone() -> None:
    near = Draw(seed=0, similarity=0.99, verdict="same_patient", agreement=1.0)
    assert copy_share([("a", near)], seed=0).value == 0.0


def test_agreement_leaves_out_images_that_were_asked_for_nothing() -> None:
    unasked, half = (Draw(seed=0, similarity=0, verdict="none", agreement=value) for value in (None, 0.5))
    cases = [("a", unasked), ("b", half)]
    figure = mean_agreement(cases, seed=0)
    assert (figure.value, figure.n) == (0.5, 1)
    assert mean_agreement(cases[:1], seed=0).reason == "no cases"


def test_detection_of_groups_that_lie_apart() -> None:
    measured = measure_detection(CANARIES, CONTROLS, threshold=2.5, false_positive_rate=0.01, seed=0)
    assert measured.auc.value == 1.0
    assert (measured.tpr_at_1pct_fpr.value, measured.tpr_at_1pct_fpr.n) == (1.0, 10)
    assert (measured.canaries_flagged.value, measured.controls_flagged.value) == (1.0, 0.0)
    assert (measured.roc.true_positive_rate[0], measured.roc.false_positive_rate[-1]) == (0.0, 1.0)


def test_correlation_is_told_overall_and_within_groups() -> None:
    measured = measure_detection(CANARIES, CONTROLS, threshold=2.5, false_positive_rate=0.01, seed=0)
    assert measured.correlation == measured.correlations["all"].spearman
    assert measured.correlations["canary"].spearman.value == pytest.approx(1.0)
    within, overall = measured.correlations["control"].pearson.value, measured.correlations["all"].pearson.value
    assert within is not None
    assert overall is not None
    assert abs(within) < 0.3 < overall
    assert measured.correlation.n == 260


def test_correlation_of_constant_similarity_is_not_told() -> None:
    measured = measure_detection(CANARIES[:1], CONTROLS, threshold=2.5, false_positive_rate=0.01, seed=0)
    assert measured.correlations["canary"].spearman.reason == "too few different values"


def test_small_rate_is_not_told_for_few_controls() -> None:
    measured = measure_detection(CANARIES, CONTROLS[:199], threshold=2.5, false_positive_rate=0.01, seed=0)
    assert measured.tpr_at_1pct_fpr.value is None
    assert measured.tpr_at_1pct_fpr.reason == "needs at least 200 control prompts"


def test_promises_are_kept_or_missed_by_the_figures() -> None:
    safe = [item.model_copy(update={"mitigated": [Draw(seed=0, similarity=0.2, verdict="none", agreement=0.75)]}) for item in CANARIES]
    measured = measure_detection(safe, CONTROLS, threshold=2.5, false_positive_rate=0.01, seed=0)
    copying, fidelity = measure_copying(safe, CONTROLS, seed=0), measure_fidelity(safe, CONTROLS, seed=0)
    targets = judge_targets(measured, copying, fidelity)
    assert [target.met for target in targets] == [True] * 5
    assert [target.reached for target in targets] == ["1.000", "100.0%", "0.0%", "0.0%", "93.8%"]
    lost = [item.model_copy(update={"mitigated": [Draw(seed=0, similarity=0.2, verdict="copy", agreement=0.1)]}) for item in CANARIES]
    missed = judge_targets(measured, measure_copying(lost, CONTROLS, seed=0), measure_fidelity(lost, CONTROLS, seed=0))
    assert [target.met for target in missed] == [True, True, False, True, False]


def test_promise_without_a_single_released_image_is_not_measured() -> None:
    measured = measure_detection(CANARIES, CONTROLS, threshold=2.5, false_positive_rate=0.01, seed=0)
    targets = judge_targets(measured, measure_copying(CANARIES, CONTROLS, seed=0), measure_fidelity(CANARIES, CONTROLS, seed=0))
    assert [(target.met, target.reached) for target in targets if target.met is None] == [(None, "not measured")] * 2
