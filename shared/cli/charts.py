"""The page's charts as SVG text; colours come from the page's own style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from markupsafe import Markup

from shared.cli.report import Curve, PromptRow

_WIDTH: Final = 420
_HEIGHT: Final = 330
_LEFT: Final = 52
_RIGHT: Final = 16
_TOP: Final = 14
_BOTTOM: Final = 46
_TICKS: Final = 5
_DOT: Final = 3.2
_LANE_ROOM: Final = 46.0  # from the middle of a lane to just below its name


@dataclass(frozen=True, slots=True)
class Axes:
    """A frame with two linear axes."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def roc_chart(curve: Curve) -> Markup:
    """True positives against false positives, with the diagonal of guessing."""
    axes = Axes(0, 1, 0, 1)
    points = list(zip(curve.false_positive_rate, curve.true_positive_rate, strict=True))
    steps: list[str] = []
    for index, (x, y) in enumerate(points):
        if index:
            steps.append(f"{axes.x(x):.1f},{axes.y(points[index - 1][1]):.1f}")
        steps.append(f"{axes.x(x):.1f},{axes.y(y):.1f}")
    area = [f"{axes.x(0):.1f},{axes.y(0):.1f}", *steps, f"{axes.x(1):.1f},{axes.y(0):.1f}"]
    body = [
        f'<line class="guess" x1="{axes.x(0):.1f}" y1="{axes.y(0):.1f}" x2="{axes.x(1):.1f}" y2="{axes.y(1):.1f}"/>',
        f'<polygon class="area" points="{" ".join(area)}"/>',
        f'<polyline class="curve" points="{" ".join(steps)}"/>',
        _label(axes.x(0.62), axes.y(0.52), "guessing", "note"),
    ]
    return _chart(
        "ROC curve: share of canaries found against share of controls wrongly flagged",
        axes,
        body,
        x_title="controls wrongly flagged",
        y_title="canaries found",
        percent=(True, True),
    )


def score_chart(canaries: Sequence[PromptRow], controls: Sequence[PromptRow], threshold: float) -> Markup:
    """Every prompt's score as a dot: controls in one lane, canaries in another, the threshold between."""
    scores = [row.score for row in (*canaries, *controls)]
    low, high = nice_range([*scores, threshold])
    axes = Axes(low, high, 0, 2)
    body = [_vertical(axes, threshold, "threshold")]
    for lane, rows, name in ((1.5, canaries, "canary"), (0.5, controls, "control")):
        offsets = swarm([axes.x(row.score) for row in rows], room=_LANE_ROOM)
        body += [
            f'<circle class="{name}" cx="{axes.x(row.score):.1f}" cy="{axes.y(lane) + offset:.1f}" r="{4 if name == "canary" else 3}">'
            f"<title>{escape(name)}: score {row.score:.3f}</title></circle>"
            for row, offset in zip(rows, offsets, strict=True)
        ]
        body.append(_label(_LEFT - 32, axes.y(lane + 0.42), _plural(name), "lane"))
    return _chart("Memorization scores of canaries and controls", axes, body, x_title="memorization score", y_title="", ticks=(True, False))


def similarity_chart(rows: Sequence[PromptRow], *, score_threshold: float, copy_threshold: float | None) -> Markup:
    """Score before drawing against similarity after it, one dot a prompt."""
    drawn = [(row, row.similarity) for row in rows if row.similarity is not None]
    limits = [similarity for _, similarity in drawn] + ([copy_threshold] if copy_threshold is not None else [])
    axes = Axes(*nice_range([row.score for row, _ in drawn] + [score_threshold]), *nice_range(limits))
    body = [_vertical(axes, score_threshold, "threshold")]
    if copy_threshold is not None:
        y = axes.y(copy_threshold)
        body.append(f'<line class="limit" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        body.append(_label(_WIDTH - _RIGHT - 4, y - 6, "copies lie above", "note", anchor="end"))
    body += [
        f'<circle class="{row.group}" cx="{axes.x(row.score):.1f}" cy="{axes.y(similarity):.1f}" r="{4.5 if row.group == "canary" else 3}">'
        f"<title>{row.group}: score {row.score:.3f}, similarity {similarity:.3f}</title></circle>"
        for row, similarity in sorted(drawn, key=lambda item: item[0].group, reverse=True)
    ]
    return _chart(
        "Memorization score of each prompt against the similarity of its images to training films",
        axes,
        body,
        x_title="memorization score of the prompt",
        y_title="similarity to nearest training film",
    )


def nice_range(values: Iterable[float]) -> tuple[float, float]:
    """Limits a little outside the values, at round numbers."""
    known = list(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = _tick_step(low, high)
    return math.floor((low - 0.02 * (high - low)) / step) * step, math.ceil((high + 0.02 * (high - low)) / step) * step


def swarm(positions: Sequence[float], *, room: float, radius: float = _DOT) -> list[float]:
    """Vertical offsets of the dots of one lane, none beyond `room`: they hide one another as little as that allows."""
    offsets = _packed(positions, radius)
    while max(map(abs, offsets), default=0.0) > room:
        radius *= 0.75
        offsets = _packed(positions, radius)
    return offsets


def _packed(positions: Sequence[float], radius: float) -> list[float]:
    """Each dot takes the free place nearest to the middle."""
    placed: list[tuple[float, float]] = []
    offsets = [0.0] * len(positions)
    levels = sorted((side * level * radius for level in range(2 * len(positions) + 1) for side in (1, -1)), key=abs)
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        x = positions[index]
        near = [(px, py) for px, py in placed if x - px < 2 * radius]
        offsets[index] = next(y for y in levels if all((x - px) ** 2 + (y - py) ** 2 >= (2 * radius) ** 2 - 1e-9 for px, py in near))
        placed.append((x, offsets[index]))
    return offsets


def _chart(
    title: str,
    axes: Axes,
    body: Iterable[str],
    *,
    x_title: str,
    y_title: str,
    percent: tuple[bool, bool] = (False, False),
    ticks: tuple[bool, bool] = (True, True),
) -> Markup:
    """The frame with ticks and titles around a body."""
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    bottom = _HEIGHT - _BOTTOM
    for value in _tick_values(axes.x_low, axes.x_high) if ticks[0] else []:
        x = axes.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_label(x, bottom + 16, _tick_text(value, percent[0]), "tick", anchor="middle"))
    for value in _tick_values(axes.y_low, axes.y_high) if ticks[1] else []:
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(_label(_LEFT - 6, y + 4, _tick_text(value, percent[1]), "tick", anchor="end"))
    parts += body
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_title, "axis", anchor="middle"))
    if y_title:
        middle = (_TOP + bottom) / 2
        parts.append(f'<text class="axis" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - all text above is escaped or made here


def _vertical(axes: Axes, value: float, text: str) -> str:
    """A dashed line at a value of x, with its name."""
    x = axes.x(value)
    anchor, shift = ("end", -5) if x > _WIDTH * 0.75 else ("start", 5)
    line = f'<line class="limit" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
    return line + _label(x + shift, _HEIGHT - _BOTTOM - 6, text, "note", anchor=anchor)


def _label(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    """A piece of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick_step(low: float, high: float) -> float:
    """A round distance between ticks."""
    rough = (high - low) / _TICKS
    magnitude = 10 ** math.floor(math.log10(rough))
    return float(next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= rough))


def _tick_values(low: float, high: float) -> list[float]:
    """Round values within the limits."""
    step = _tick_step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_text(value: float, percent: bool) -> str:
    """A tick's value, short."""
    return f"{value:.0%}" if percent else f"{value:.4g}"


def _plural(name: str) -> str:
    """canary → canaries, control → controls."""
    return "canaries" if name == "canary" else "controls"
