"""report.html: one self-contained page that a privacy officer can read; a pure function of the report and its pictures."""

from __future__ import annotations

import base64
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from shared.cli.charts import roc_chart, score_chart, similarity_chart
from shared.cli.report import Figure, Gallery, PromptRow, Report, Weight

_TEMPLATE: Final = "report.html"
_COPY_THRESHOLDS: Final = ("copy", "copy_similarity", "tau_copy")


def render(report: Report, gallery: Gallery) -> str:
    """The page."""
    canaries = [row for row in report.prompts if row.group == "canary"]
    controls = [row for row in report.prompts if row.group == "control"]
    copy_threshold = next((report.thresholds[name] for name in _COPY_THRESHOLDS if name in report.thresholds), None)
    environment = Environment(
        loader=PackageLoader("shared.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "whole": whole,
        "decimal": decimal,
        "interval": interval,
        "data_uri": data_uri,
        "minutes": minutes,
        "heat": heat,
    }
    return environment.get_template(_TEMPLATE).render(
        report=report,
        canaries=canaries,
        controls=controls,
        drawn_controls=[row for row in controls if row.plain],
        closest_controls=[row for row in controls if row.record in gallery.controls],
        refused=[row for row in canaries if row.refused],
        pictures=gallery,
        verdict=verdict(canaries),
        closest=closest_draw,
        mitigated_twin=mitigated_twin,
        charts={
            "roc": roc_chart(report.detection.roc),
            "scores": score_chart(canaries, controls, report.detection.threshold),
            "similarity": similarity_chart(report.prompts, score_threshold=report.detection.threshold, copy_threshold=copy_threshold),
        },
    )


def verdict(canaries: list[PromptRow]) -> str:
    """The outcome in plain words."""
    plain = sum(row.copies for row in canaries)
    plain_images = sum(len(row.plain) for row in canaries)
    released = [draw for row in canaries for draw in row.mitigated]
    left = sum(draw.verdict == "copy" for draw in released)
    refused = sum(row.refused is not None for row in canaries)
    found = sum(row.decision != "allow" for row in canaries)
    sentences = [
        f"Of {plain_images} images drawn for the {len(canaries)} planted prompts, {_are_copies(plain)} of a training film.",
        f"Screening flagged {found} of these {len(canaries)} prompts before anything was drawn.",
    ]
    if released:
        sentences.append(f"With mitigation, {_are_copies(left)} among {len(released)} released images.")
    if refused:
        sentences.append(f"For {refused} {'prompt' if refused == 1 else 'prompts'} the mitigator released nothing.")
    return " ".join(sentences)


def _are_copies(count: int) -> str:
    """So many are copies."""
    return "none is a copy" if count == 0 else "1 is a copy" if count == 1 else f"{count} are copies"


def closest_draw(row: PromptRow) -> int:
    """The position of the plain image most like a training film."""
    return max(range(len(row.plain)), key=lambda index: row.plain[index].similarity)


def mitigated_twin(row: PromptRow) -> int | None:
    """The position of the mitigated image with the seed of the shown plain one."""
    seed = row.plain[closest_draw(row)].seed
    return next((index for index, draw in enumerate(row.mitigated) if draw.seed == seed), None)


def heat(words: list[Weight]) -> list[tuple[str, int]]:
    """Words with how strongly they are to glow, 0 to 100: twice an even share glows fully, or the strongest word if it has more."""
    if not words:
        return []
    full = max(2 / len(words), *(word.weight for word in words))
    return [(word.text, round(100 * max(word.weight, 0) / full)) for word in words]


def percent(value: float | None) -> str:
    """A share in per cent."""
    if value is None:
        return "–"
    return f"{value:.0%}" if value in {0, 1} or abs(value * 100 - round(value * 100)) < 0.05 else f"{value:.1%}"


def whole(value: float | None) -> str:
    """A share in whole per cent, for headlines; never rounded to none or all when it is neither."""
    if value is None:
        return "–"
    rounded = f"{value:.0%}"
    return percent(value) if rounded in {"0%", "100%"} else rounded


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(figure: Figure, kind: str = "percent") -> str:
    """The interval and the number of cases, or why there is none."""
    if figure.value is None:
        return figure.reason or ""
    shown = percent if kind == "percent" else decimal
    return f"95% interval {shown(figure.low)} to {shown(figure.high)}, n = {figure.n}"


def data_uri(png: bytes) -> str:
    """A picture within the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def minutes(seconds: float) -> str:
    """A duration in minutes and seconds."""
    whole, rest = divmod(seconds, 60)
    return f"{int(whole)} min {rest:.0f} s" if whole else f"{rest:.1f} s"
