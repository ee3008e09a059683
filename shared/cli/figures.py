"""From what the demo saw to what its report says: rates, intervals, correlations, and whether the promises hold.

A share of images has the wider of two intervals: the exact binomial one, which holds when nothing happened or everything did, and the
bootstrap by patient, which knows that images of one prompt are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from shared.cli.report import (
    CopyRate,
    Correlations,
    Curve,
    Detection,
    Draw,
    Fidelity,
    Figure,
    PromptAgreement,
    PromptRow,
    StrategyRow,
    Target,
)
from shared.memorization import statistics
from shared.memorization.statistics import MIN_NEGATIVES

Case = tuple[str, Draw]
"""An image and the patient whose prompt it was drawn for."""

AUC_WANTED: Final = 0.97
PLAIN_COPIES_WANTED: Final = 0.7
MITIGATED_COPIES_WANTED: Final = 0.1
CONTROL_COPIES_WANTED: Final = 0.02
AGREEMENT_WANTED: Final = 0.9


def share(patients: Sequence[str], yes: Sequence[bool], *, seed: int) -> Figure:
    """A share of cases, with the wider of the exact and the bootstrap interval."""
    if not yes:
        return Figure.missing(0, "no cases")
    exact = statistics.rate(sum(yes), len(yes))
    resampled = statistics.mean_interval(statistics.Group(list(map(float, yes)), patients), seed=seed)
    return Figure(value=exact["value"], low=min(exact["low"], resampled["low"]), high=max(exact["high"], resampled["high"]), n=len(yes))


def copy_share(cases: Sequence[Case], *, seed: int) -> Figure:
    """The share of images that are copies."""
    return share([patient for patient, _ in cases], [draw.verdict == "copy" for _, draw in cases], seed=seed)


def mean_agreement(cases: Sequence[Case], *, seed: int) -> Figure:
    """The mean agreement of images with their prompts."""
    judged = [(patient, draw.agreement) for patient, draw in cases if draw.agreement is not None]
    if not judged:
        return Figure.missing(0, "no cases")
    group = statistics.Group([agreement for _, agreement in judged], [patient for patient, _ in judged])
    return Figure.of(statistics.mean_interval(group, seed=seed))


def plain_cases(rows: Iterable[PromptRow]) -> list[Case]:
    """The plain images with their patients."""
    return [(row.patient, draw) for row in rows for draw in row.plain]


def mitigated_cases(rows: Iterable[PromptRow]) -> list[Case]:
    """The released mitigated images with their patients."""
    return [(row.patient, draw) for row in rows for draw in row.mitigated]


def measure_detection(
    canaries: Sequence[PromptRow], controls: Sequence[PromptRow], *, threshold: float, false_positive_rate: float, seed: int
) -> Detection:
    """How well the score tells canaries from controls."""
    positives, negatives = _scores(canaries), _scores(controls)
    curve = statistics.roc(positives.scores, negatives.scores)
    if len(controls) >= MIN_NEGATIVES:
        tpr = Figure.of(statistics.tpr_at_fpr_interval(positives, negatives, seed=seed))
    else:
        tpr = Figure.missing(len(controls), f"needs at least {MIN_NEGATIVES} control prompts")
    groups: dict[Literal["all", "canary", "control"], Sequence[PromptRow]] = {
        "all": [*canaries, *controls],
        "canary": canaries,
        "control": controls,
    }
    correlations = {name: _correlate(rows, seed=seed) for name, rows in groups.items()}
    return Detection(
        auc=Figure.of(statistics.auc_interval(positives, negatives, seed=seed)),
        tpr_at_1pct_fpr=tpr,
        correlation=correlations["all"].spearman,
        correlations=correlations,
        canaries_flagged=_flagged(canaries, threshold, seed=seed),
        controls_flagged=_flagged(controls, threshold, seed=seed),
        threshold=threshold,
        false_positive_rate=false_positive_rate,
        roc=Curve(
            false_positive_rate=curve.false_positive_rate_T.tolist(),
            true_positive_rate=curve.true_positive_rate_T.tolist(),
        ),
    )


def measure_copying(canaries: Sequence[PromptRow], controls: Sequence[PromptRow], *, seed: int) -> CopyRate:
    """How many images are copies, plain and mitigated."""
    return CopyRate(
        canary_plain=copy_share(plain_cases(canaries), seed=seed),
        canary_mitigated=copy_share(mitigated_cases(canaries), seed=seed),
        control_plain=copy_share(plain_cases(controls), seed=seed),
    )


def measure_refusals(canaries: Sequence[PromptRow], *, images_per_prompt: int, seed: int) -> Figure:
    """The share of mitigated images that were asked for and not released."""
    asked = [(row.patient, row.refused is not None) for row in canaries for _ in range(images_per_prompt)]
    return share([patient for patient, _ in asked], [refused for _, refused in asked], seed=seed)


def measure_fidelity(canaries: Sequence[PromptRow], controls: Sequence[PromptRow], *, seed: int) -> Fidelity:
    """How much of what was asked for the images show."""
    agreement = PromptAgreement(
        canary_plain=mean_agreement(plain_cases(canaries), seed=seed),
        canary_mitigated=mean_agreement(mitigated_cases(canaries), seed=seed),
        control_plain=mean_agreement(plain_cases(controls), seed=seed),
    )
    mitigated, control = agreement.canary_mitigated.value, agreement.control_plain.value
    return Fidelity(prompt_agreement=agreement, mitigated_over_control=mitigated / control if mitigated is not None and control else None)


def measure_strategy(
    cases: Sequence[Case], *, name: str, refused: int, seconds: float, seed: int, summary: str = "", paper: str = "", cost: str = ""
) -> StrategyRow:
    """The row of one strategy; `cases` are all images that it drew, released or not."""
    return StrategyRow(
        name=name,
        summary=summary,
        paper=paper,
        cost=cost,
        images=len(cases),
        released=len(cases) - refused,
        refused=refused,
        copies=sum(draw.verdict == "copy" for _, draw in cases),
        copy_rate=copy_share(cases, seed=seed),
        agreement=mean_agreement(cases, seed=seed),
        seconds=seconds,
    )


def judge_targets(detection: Detection, copying: CopyRate, fidelity: Fidelity) -> list[Target]:
    """Whether the figures reach what the demo promises."""
    auc = detection.auc.value
    plain, mitigated, control = copying.canary_plain.value, copying.canary_mitigated.value, copying.control_plain.value
    kept = fidelity.mitigated_over_control
    return [
        _target("Screening tells canaries from controls (AUC)", auc, f"≥ {AUC_WANTED}", _at_least(auc, AUC_WANTED), "{:.3f}"),
        _target("Canaries are copied without mitigation", plain, f"≥ {PLAIN_COPIES_WANTED:.0%}", _at_least(plain, PLAIN_COPIES_WANTED)),
        _target(
            "Canaries are copied with mitigation",
            mitigated,
            f"≤ {MITIGATED_COPIES_WANTED:.0%}",
            _at_most(mitigated, MITIGATED_COPIES_WANTED),
        ),
        _target("Controls are copied", control, f"≤ {CONTROL_COPIES_WANTED:.0%}", _at_most(control, CONTROL_COPIES_WANTED)),
        _target(
            "Mitigated images show what was asked, against plain controls",
            kept,
            f"≥ {AGREEMENT_WANTED:.0%}",
            _at_least(kept, AGREEMENT_WANTED),
        ),
    ]


def _scores(rows: Sequence[PromptRow]) -> statistics.Group:
    return statistics.Group([row.score for row in rows], [row.patient for row in rows])


def _flagged(rows: Sequence[PromptRow], threshold: float, *, seed: int) -> Figure:
    return share([row.patient for row in rows], [row.score >= threshold for row in rows], seed=seed)


def _correlate(rows: Sequence[PromptRow], *, seed: int) -> Correlations:
    """Score against mean similarity, over the prompts that were drawn."""
    drawn = [(row.score, row.similarity, row.patient) for row in rows if row.similarity is not None]
    x, y, patients = [score for score, _, _ in drawn], [similarity for _, similarity, _ in drawn], [patient for _, _, patient in drawn]
    if len(set(x)) < 2 or len(set(y)) < 2:
        missing = Figure.missing(len(drawn), "too few different values")
        return Correlations(spearman=missing, pearson=missing)
    return Correlations(
        spearman=Figure.of(statistics.correlation(x, y, patients, method="spearman", seed=seed)),
        pearson=Figure.of(statistics.correlation(x, y, patients, method="pearson", seed=seed)),
    )


def _target(name: str, value: float | None, wanted: str, met: bool | None, form: str = "{:.1%}") -> Target:
    return Target(name=name, wanted=wanted, reached="not measured" if value is None else form.format(value), met=met)


def _at_least(value: float | None, wanted: float) -> bool | None:
    return None if value is None else value >= wanted


def _at_most(value: float | None, wanted: float) -> bool | None:
    return None if value is None else value <= wanted
