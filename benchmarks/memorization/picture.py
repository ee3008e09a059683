"""Copying against FID as a picture: one point a method with its intervals, names in a column beside each panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.memorization.methods import BASELINE, Setting

GAP: Final = 0.044  # between two names, of a panel's height
KINDS: Final = {  # colours of Okabe and Ito, which colour-blind eyes tell apart
    "all of the denoiser": "#000000",
    "a part of it": "#0072B2",
    "batch filter": "#D55E00",
    "captions": "#009E73",
    "timesteps or data": "#CC79A7",
    "ensemble": "#E69F00",
    "combination": "#7F7F7F",
}


def draw_picture(rows: Sequence[Mapping[str, Any]], asks: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel for each setting. `rows` are of `over_seeds`, `asks` what each method asks for."""
    settings: list[Setting] = list(dict.fromkeys(row["setting"] for row in rows))
    figure = Figure(figsize=(8.2 * len(settings), 6.6), dpi=130, layout="constrained")
    for axes, setting in zip(np.atleast_1d(figure.subplots(1, len(settings))), settings, strict=True):
        _panel(axes, setting, [row for row in rows if row["setting"] == setting], asks)
    with mpl.rc_context({"font.size": 9}):
        figure.savefig(path, metadata={"Software": None})


def spaced(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights in the order given, from low to high, as near to the wanted ones as a gap between all allows, within 0 and 1."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + gap) if placed else max(height, 0.0))
    limit = 1.0
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - gap
    return placed


def kind_of(asks: Mapping[str, Any]) -> str:
    """Which family a method belongs to."""
    families = {
        "ensemble": "ensemble",
        "parameters": "a part of it",
        "captions": "captions",
        "batch_filter": "batch filter",
        "timesteps": "timesteps or data",
        "deduplicate": "timesteps or data",
    }
    found = [family for field, family in families.items() if field in asks]
    if set(found) == {"ensemble", "batch filter"}:
        return "ensemble"
    return "all of the denoiser" if not found else found[0] if len(found) == 1 else "combination"


def _panel(axes: Axes, setting: Setting, rows: Sequence[Mapping[str, Any]], asks: Mapping[str, Mapping[str, Any]]) -> None:
    for row in rows:
        kind = kind_of(asks[row["method"]])
        x, y = row["fid"], row["copies"]
        axes.errorbar(
            x["mean"],
            y["value"],
            xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
            yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]],
            fmt="D" if row["method"] == BASELINE else "o",
            color=KINDS[kind],
            markersize=6,
            elinewidth=0.8,
            alpha=0.9,
        )
    floor = [row["fid_floor"]["mean"] for row in rows]
    axes.axvline(float(np.mean(floor)), color="#7F7F7F", linestyle=":", linewidth=1)
    axes.annotate(
        "real films", (float(np.mean(floor)), 1.0), xycoords=("data", "axes fraction"), xytext=(3, -11), textcoords="offset points"
    )
    axes.set(ylim=(-0.03, 1.03), xlabel="FID on site features (less is better)", ylabel="memorization score: copies among canary images")
    axes.set_title(setting, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _name(axes, rows, asks)


def _name(axes: Axes, rows: Sequence[Mapping[str, Any]], asks: Mapping[str, Mapping[str, Any]]) -> None:
    """Names in a column at the right, each at the height of its point or as near as there is room, with a line to it."""
    ordered = sorted(rows, key=lambda row: (row["copies"]["value"], -row["fid"]["mean"]))
    low, high = axes.get_ylim()
    heights = spaced([(row["copies"]["value"] - low) / (high - low) for row in ordered], GAP)
    for row, height in zip(ordered, heights, strict=True):
        axes.annotate(
            row["method"],
            (row["fid"]["mean"], row["copies"]["value"]),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=KINDS[kind_of(asks[row["method"]])],
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#BBBBBB", "shrinkB": 4, "relpos": (0, 0.5)},
        )
