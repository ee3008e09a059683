"""Left, how hypervolumes grow with training steps; right, the fronts of one seed with the fixed choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.memcontrol.contenders import FIXED
from benchmarks.memcontrol.course import chosen, front_of, losses_of
from benchmarks.memcontrol.summary import Curve, Seed
from benchmarks.memorization.picture import KINDS, spaced

GAP: Final = 0.05  # between two names, of a panel's height
SEARCH_COLOURS: Final = {
    "ours": KINDS["batch filter"],
    "TPE": KINDS["ensemble"],
    "NSGA-II": KINDS["captions"],
    "random search": KINDS["combination"],
}
COLOURS: Final = SEARCH_COLOURS | {fixed.name: KINDS["all of the denoiser" if fixed.kind == "full" else "a part of it"] for fixed in FIXED}
MARKERS: Final = dict(zip((fixed.name for fixed in FIXED), "Dos^vP", strict=True))


def draw_picture(seeds: Sequence[Seed], path: Path) -> None:
    """Curves are means over seeds within their lowest and highest; fronts are the first seed's."""
    figure = Figure(figsize=(16.4, 6.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, seeds)
    _fronts(right, seeds[0])
    with mpl.rc_context({"font.size": 9}):
        figure.savefig(path, metadata={"Software": None})


def at_steps(curve: Curve, steps: Sequence[int]) -> list[float]:
    """A curve's value after so many steps: what the last training before left."""
    return [max((share for reached, share in curve if reached <= step), default=0.0) for step in steps]


def _curves(axes: Axes, seeds: Sequence[Seed]) -> None:
    budget = seeds[0].regime.budget
    steps = np.linspace(0, budget, 201).astype(int).tolist()
    ends: dict[str, tuple[float, float]] = {}
    for name in seeds[0].courses:
        shares = np.array([at_steps(seed.curve(name), steps) for seed in seeds])
        last = max(seed.courses[name].steps for seed in seeds)  # a sweep is over before the budget is
        shown = np.array(steps) <= last
        x, mean = np.array(steps)[shown], shares.mean(0)[shown]
        searched = name in SEARCH_COLOURS
        axes.step(x, mean, where="post", color=COLOURS[name], linewidth=2.2 if name == "ours" else 1.4, alpha=1 if searched else 0.45)
        if searched:
            axes.fill_between(x, shares.min(0)[shown], shares.max(0)[shown], step="post", color=COLOURS[name], alpha=0.10, linewidth=0)
        ends[name] = float(x[-1]), float(mean[-1])
    axes.set(xlim=(0, budget), ylim=(0, 1), xlabel="training steps", ylabel="hypervolume, of the box around all fronts")
    axes.set_title(f"growth of the front, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}: mean, lowest to highest", loc="left")
    _name(axes, ends)


def _fronts(axes: Axes, seed: Seed) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for name, course in seed.courses.items():
        points = losses_of(front_of(course.finished))
        if name in SEARCH_COLOURS:
            axes.plot(
                points[:, 1], points[:, 0], "o-", color=COLOURS[name], markersize=4, linewidth=2 if name == "ours" else 1.2, alpha=0.85
            )
        else:
            axes.plot(points[:, 1], points[:, 0], MARKERS[name], color=COLOURS[name], markersize=4, alpha=0.5)
        best = chosen(course.finished).losses
        axes.plot(best[1], best[0], MARKERS.get(name, "o"), color=COLOURS[name], markersize=8)
        ends[name] = best[1], best[0]
    axes.set(xlabel="FID on site features (less is better)", ylabel="memorization: magnitude on canaries beyond that on controls")
    axes.set_title(f"fronts, seed {seed.seed}; large: the least memorization within 5 % of a contender's best FID", loc="left")
    _name(axes, ends)


def _name(axes: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names in a column at the right, each at the height of its point or as near as there is room, with a line to it."""
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ordered = sorted(ends, key=lambda name: (ends[name][1], -ends[name][0]))
    heights = spaced([(ends[name][1] - low) / (high - low) for name in ordered], GAP)
    for name, height in zip(ordered, heights, strict=True):
        axes.annotate(
            name,
            ends[name],
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=COLOURS[name],
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#BBBBBB", "shrinkB": 4, "relpos": (0, 0.5)},
        )
