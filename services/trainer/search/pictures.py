"""What a search found, as pictures: its front, the masks that it tried, and how fast the front grew."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from services.trainer.search.trial import Trial

Measured = tuple[float, float, float]  # a value, and between what it lies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER: Final = "#ffffff"
INK: Final = "#1d2327"
SOFT: Final = "#5c666d"
LINE: Final = "#d9d6d0"
FRONT: Final = "#D55E00"  # with the kinds', colours of Okabe and Ito, which colour-blind eyes tell apart
KIND_COLOURS: Final[Mapping[str, str]] = {"svdiff": "#0072B2", "diffit": "#009E73", "attention": "#CC79A7", "lora": "#E69F00"}
OFF: Final = "#f1efea"
BASE: Final = "#3a3a3a"
FLOOR: Final = "#6f5c96"
DOTS_PER_INCH: Final = 160
KEPT: Final = 12  # pictures that are not drawn again: those of four searches
ROWS_MAX: Final = 60  # of the picture of masks: more cannot be read
MARGIN: Final = 0.25  # of the points' span, around them
VALUE_COLUMNS: Final = 3.0  # how many modules' widths a value takes beside them

# Matplotlib's font cache and text layout are shared by all figures of a process, and guarded by nothing.
_DRAWING: Final = Lock()


@dataclass(frozen=True, eq=False)
class Drawing:
    """What there is to be drawn of a search: the summary says what was searched for, the trials what was tried.

    Drawings of the same are equal.
    """

    summary: Mapping[str, Any]
    trials: Sequence[Trial]

    @property
    def objectives(self) -> list[tuple[str, str]]:
        """Names with directions."""
        return list(self.summary["objectives"].items())

    @property
    def measured(self) -> list[Trial]:
        """The trials that came to their end."""
        return [trial for trial in self.trials if trial.values is not None]

    @property
    def front(self) -> list[int]:
        """The numbers of the trials that no other beats."""
        return [point["trial"] for point in self.summary["pareto"]]

    @property
    def recommended(self) -> int | None:
        """The recommended trial's number."""
        point = self.summary["recommended"]
        return None if point is None else point["trial"]

    @property
    def floors(self) -> Mapping[str, float]:
        """What real films score for images, of the figures that have such a floor."""
        return self.summary["floors"] or {}

    @cached_property
    def base(self) -> Mapping[str, Measured]:
        """The figures of the untuned base; none where it was not measured."""
        told = self.summary["base"] or {"values": {}, "intervals": {}}
        return {name: (value, *told["intervals"][name]) for name, value in told["values"].items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Drawing) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    @cached_property
    def _digest(self) -> bytes:
        told = {"summary": self.summary, "trials": [trial.model_dump(mode="json") for trial in self.trials]}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()


def draw_front(drawing: Drawing) -> bytes:
    """Every finished trial by its objectives, with 95 % intervals; those that no other beats are joined and numbered."""
    objectives = drawing.objectives
    if len(objectives) == 1:
        return _png((7.2, 4.4), lambda figure: _draw_values(figure.subplots(), drawing))
    (across, _), others = objectives[0], objectives[1:]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(others), squeeze=False)[0]
        for panel, (upwards, _) in zip(panels, others, strict=True):
            _draw_plane(panel, drawing, across, upwards, joined=len(objectives) == 2)
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=INK)

    return _png((7.2 if len(others) == 1 else 5.2 * len(others), 5.4), draw)


def draw_masks(drawing: Drawing) -> bytes:
    """A row a trial, a column an attention module: filled where it took part, in the kind's colour; LoRA's ranks are written in."""
    front = drawing.front
    by_number = {trial.number: trial for trial in drawing.trials}
    rows = [by_number[number] for number in front if number in by_number] + [trial for trial in drawing.trials if trial.number not in front]
    shown = rows[:ROWS_MAX]
    size = (1.9 + 0.36 * _columns(drawing), 1.2 + 0.27 * max(1, len(shown)))
    return _png(size, lambda figure: _draw_grid(figure.subplots(), drawing, shown, left_out=len(rows) - len(shown)))


def draw_hypervolume(drawing: Drawing) -> bytes:
    """How much of what could be reached the front covers, over the training steps that all trials took together."""

    def draw(figure: Figure) -> None:
        axes = _plain(figure.subplots())
        points = drawing.summary["hypervolume"]
        steps, values = [step for step, _ in points], [value for _, value in points]
        axes.step([0, *steps], [0.0, *values], where="post", color=FRONT, linewidth=2)
        axes.plot(steps, values, "o", color=FRONT, markersize=3.5)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("training steps of all trials")
        axes.set_ylabel("hypervolume of the front")

    return _png((7.2, 3.4), draw)


PICTURES: Final[Mapping[str, Callable[[Drawing], bytes]]] = {
    "front": draw_front,
    "masks": draw_masks,
    "hypervolume": draw_hypervolume,
}


@lru_cache(maxsize=KEPT)
def picture_of(name: str, drawing: Drawing) -> bytes:
    """One of the pictures; as long as nothing new was found, the one that was drawn before."""
    return PICTURES[name](drawing)


def short_name(module: str) -> str:
    """down_blocks.0.attentions.1 → down 0.1, mid_block.attentions.0 → mid."""
    side, *rest = module.split(".")
    numbers = [part for part in rest if part.isdigit()]
    return "mid" if side.startswith("mid") else f"{side.split('_')[0]} {'.'.join(numbers)}"


def _png(size: tuple[float, float], draw: Callable[[Figure], None]) -> bytes:
    """A picture drawn without pyplot, which keeps figures and picks a screen."""
    from matplotlib.figure import Figure

    with _DRAWING:
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _plain(axes: Axes) -> Axes:
    """A quiet frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=8.5)
    axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes


def _draw_plane(axes: Axes, drawing: Drawing, across: str, upwards: str, *, joined: bool) -> None:
    """Two objectives against one another."""
    _plain(axes)
    front = set(drawing.front)
    for kind, colour in KIND_COLOURS.items():
        others = [trial for trial in drawing.measured if trial.choice.kind == kind and trial.number not in front]
        if others:
            axes.scatter(*_places(others, across, upwards), s=26, color=colour, alpha=0.55, linewidths=0, label=f"{kind}, not on the front")
    best = [trial for trial in drawing.measured if trial.number in front]
    best.sort(key=lambda trial: _value(trial, across))
    directions = dict(drawing.objectives)
    if joined and best:
        # What the front reaches: on the worse side of a point, at least its value.
        style = "steps-post" if directions[across] == "minimize" else "steps-pre"
        axes.plot(*_places(best, across, upwards), drawstyle=style, color=FRONT, linewidth=1.2, alpha=0.7, zorder=2.5)
    _draw_base(axes, drawing, across, upwards)
    _draw_floors(drawing, {across: axes.axvline, upwards: axes.axhline})
    for place, trial in enumerate(best):
        _draw_point(axes, trial, across, upwards, recommended=trial.number == drawing.recommended, above=place % 2 == 0)
    if best:
        axes.scatter([], [], s=46, color=FRONT, label="front")
    if drawing.recommended is not None:
        axes.scatter([], [], s=110, facecolors="none", edgecolors=INK, linewidths=1.4, label="recommended")
    axes.set_xlabel(_axis(across, directions[across]))
    axes.set_ylabel(_axis(upwards, directions[upwards]))
    _frame(axes, drawing, across, upwards)


def _frame(axes: Axes, drawing: Drawing, across: str, upwards: str) -> None:
    """The frame is that of points, base and floors: intervals, which are wide where canaries are few, may leave it."""
    for name, limit in ((across, axes.set_xlim), (upwards, axes.set_ylim)):
        values = [_value(trial, name) for trial in drawing.measured]
        values += [value for value in (drawing.floors.get(name), drawing.base.get(name, (None,))[0]) if value is not None]
        if values and (span := max(values) - min(values)) > 0:
            limit(min(values) - MARGIN * span, max(values) + MARGIN * span)


def _draw_point(axes: Axes, trial: Trial, across: str, upwards: str, *, recommended: bool, above: bool) -> None:
    """A point of the front with its intervals and its number; those of neighbours stand on either side."""
    (x,), (y,) = _places([trial], across, upwards)
    values = trial.values or {}
    spans = [_span((values[name]["value"], values[name]["low"], values[name]["high"])) for name in (across, upwards)]
    axes.errorbar(x, y, xerr=spans[0], yerr=spans[1], fmt="none", ecolor=FRONT, elinewidth=0.8, alpha=0.45, zorder=2)
    axes.scatter([x], [y], s=46, color=FRONT, linewidths=0, zorder=3)
    if recommended:
        axes.scatter([x], [y], s=150, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)
    offset, side = ((6, 5), "left") if above else ((-6, -12), "right")
    axes.annotate(f"#{trial.number}", (x, y), xytext=offset, textcoords="offset points", ha=side, fontsize=8, color=INK, zorder=5)


def _draw_base(axes: Axes, drawing: Drawing, across: str, upwards: str) -> None:
    """The untuned base with its intervals, hollow: no trial is there."""
    if not {across, upwards} <= drawing.base.keys():
        return
    x, y = drawing.base[across], drawing.base[upwards]
    axes.errorbar(x[0], y[0], xerr=_span(x), yerr=_span(y), fmt="none", ecolor=BASE, elinewidth=0.8, alpha=0.45, zorder=2)
    axes.scatter([x[0]], [y[0]], s=52, marker="D", facecolors=PAPER, edgecolors=BASE, linewidths=1.4, zorder=3, label="untuned base")


def _draw_floors(drawing: Drawing, lines: Mapping[str, Callable[..., object]]) -> None:
    """A dotted line where real films score as much, on the axis of each figure that has such a floor."""
    for name, line in lines.items():
        if name in drawing.floors:
            line(drawing.floors[name], color=FLOOR, linestyle=":", linewidth=1.2, zorder=1.5, label=f"{name} of real films")


def _draw_values(axes: Axes, drawing: Drawing) -> None:
    """One objective: every finished trial in its order, the best so far, and the untuned base, which has no number, beside the first."""
    _plain(axes)
    ((name, direction),) = drawing.objectives
    best = min if direction == "minimize" else max
    values = [_value(trial, name) for trial in drawing.measured]
    for trial, value in zip(drawing.measured, values, strict=True):
        axes.scatter([trial.number], [value], s=30, color=KIND_COLOURS[trial.choice.kind], linewidths=0, zorder=3)
        if trial.number == drawing.recommended:
            axes.scatter([trial.number], [value], s=150, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)
    if name in drawing.base:
        _draw_base_beside(axes, drawing.base[name])
    _draw_floors(drawing, {name: axes.axhline})
    so_far = [best(values[: place + 1]) for place in range(len(values))]
    axes.step([trial.number for trial in drawing.measured], so_far, where="post", color=FRONT, linewidth=1.4, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(_axis(name, direction))
    if values:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _draw_base_beside(axes: Axes, base: Measured) -> None:
    axes.errorbar(-1, base[0], yerr=_span(base), fmt="none", ecolor=BASE, elinewidth=0.8, alpha=0.45, zorder=2)
    axes.scatter([-1], [base[0]], s=52, marker="D", facecolors=PAPER, edgecolors=BASE, linewidths=1.4, zorder=3, label="untuned base")


def _draw_grid(axes: Axes, drawing: Drawing, trials: Sequence[Trial], *, left_out: int) -> None:
    """The cells, and beside each row what was measured."""
    from matplotlib.colors import to_rgb

    modules: list[str] = drawing.summary["modules"]
    cells = [[to_rgb(KIND_COLOURS[trial.choice.kind] if bit else OFF) for bit in trial.choice.mask] for trial in trials]
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    if cells:
        axes.imshow(cells, aspect="auto", interpolation="nearest", extent=(0, len(modules), len(trials), 0))
    for column in range(len(modules) + 1):
        axes.axvline(column, color=PAPER, linewidth=2.5 if _begins_block(modules, column) else 1)
    front = set(drawing.front)
    axes.axhline(sum(trial.number in front for trial in trials), color=INK, linewidth=1)
    for row, trial in enumerate(trials):
        axes.axhline(row, color=PAPER, linewidth=1, zorder=0.9)
        for column, rank in enumerate(trial.choice.ranks or ()):
            if rank:
                axes.text(column + 0.5, row + 0.52, str(rank), ha="center", va="center", fontsize=7, color=INK)
        told = [f"{_value(trial, name):.4g}" for name, _ in drawing.objectives] if trial.values is not None else [trial.state]
        for place, text in enumerate(told):
            axes.text(
                len(modules) + 1.6 + VALUE_COLUMNS * place, row + 0.52, text, ha="center", va="center", fontsize=8, color=INK, clip_on=False
            )
    for place, (name, _) in enumerate(drawing.objectives):
        axes.text(len(modules) + 1.6 + VALUE_COLUMNS * place, -0.35, name, ha="center", va="bottom", fontsize=8, color=SOFT, clip_on=False)
    axes.set_xlim(0, _columns(drawing))
    axes.set_ylim(max(1, len(trials)), 0)
    axes.xaxis.tick_top()
    axes.set_xticks(
        [column + 0.5 for column in range(len(modules))],
        [short_name(module) for module in modules],
        rotation=60,
        rotation_mode="anchor",
        ha="left",
    )
    axes.set_yticks([row + 0.5 for row in range(len(trials))], [_row_name(trial, drawing) for trial in trials])
    if left_out:
        axes.set_xlabel(f"{left_out} more trials are not drawn", fontsize=8, color=SOFT)


def _columns(drawing: Drawing) -> float:
    """The width of the picture of masks, in modules."""
    return len(drawing.summary["modules"]) + 0.2 + VALUE_COLUMNS * len(drawing.objectives)


def _row_name(trial: Trial, drawing: Drawing) -> str:
    star = "★ " if trial.number == drawing.recommended else ""
    return f"{star}#{trial.number}  {trial.choice.kind}  {trial.choice.learning_rate:.2g}"


def _begins_block(modules: Sequence[str], column: int) -> bool:
    """Whether another block's modules begin at a column."""
    return 0 < column < len(modules) and modules[column].rpartition(".attentions")[0] != modules[column - 1].rpartition(".attentions")[0]


def _places(trials: Sequence[Trial], across: str, upwards: str) -> tuple[list[float], list[float]]:
    return [_value(trial, across) for trial in trials], [_value(trial, upwards) for trial in trials]


def _value(trial: Trial, name: str) -> float:
    return trial.figures().get(name, math.nan)


def _span(estimate: Measured) -> list[list[float]]:
    """How far an interval reaches below and above its value, as error bars are told."""
    value, low, high = estimate
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _axis(name: str, direction: str) -> str:
    return f"{name} ({'less' if direction == 'minimize' else 'more'} is better)"
