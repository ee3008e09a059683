"""Counts as bars in SVG text; colours come from the page's own style, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from markupsafe import Markup

_WIDTH: Final = 440
_ROW: Final = 24
_NAMES: Final = 208  # room for the longest label of CheXpert
_COUNTS: Final = 104
_PLOT: Final = 150  # height of columns
_FOOT: Final = 20
_HEAD: Final = 18


def row_chart(title: str, counts: Mapping[str, int], total: int) -> Markup:
    """One bar a name, side by side with its count and its share of all films."""
    return _rows(title, counts, {name: f"{count:,} · {_share(count, total)}" for name, count in counts.items()})


def share_chart(title: str, shares: Mapping[str, float]) -> Markup:
    """One bar a name, side by side with its share of one."""
    return _rows(title, shares, {name: f"{share:.0%}" for name, share in shares.items()})


def _rows(title: str, amounts: Mapping[str, float], told: Mapping[str, str]) -> Markup:
    largest = max(amounts.values(), default=0) or 1
    room = _WIDTH - _NAMES - _COUNTS
    parts = [f'<svg viewBox="0 0 {_WIDTH} {max(1, len(amounts)) * _ROW}" role="img" aria-label="{escape(title)}">']
    for place, (name, amount) in enumerate(amounts.items()):
        middle, length = place * _ROW + _ROW / 2, max(1.5, room * amount / largest)
        parts.append(f'<text class="name" x="{_NAMES - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{_NAMES}" y="{middle - 7:.1f}" width="{length:.1f}" height="14" rx="2"/>')
        parts.append(f'<text class="count" x="{_NAMES + length + 8:.1f}" y="{middle + 4:.1f}">{told[name]}</text>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - all text above is escaped or made here


def column_chart(title: str, counts: Mapping[str, int]) -> Markup:
    """One column a class, in the order given."""
    largest = max(counts.values(), default=0) or 1
    step = _WIDTH / max(1, len(counts))
    base = _HEAD + _PLOT
    parts = [f'<svg viewBox="0 0 {_WIDTH} {base + _FOOT}" role="img" aria-label="{escape(title)}">']
    for place, (name, count) in enumerate(counts.items()):
        middle, height = (place + 0.5) * step, max(1.0, _PLOT * count / largest)
        top, width = base - height, min(0.8 * step, 60)
        parts.append(f'<rect class="bar" x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>')
        parts.append(f'<text class="count" x="{middle:.1f}" y="{top - 5:.1f}" text-anchor="middle">{_short(count)}</text>')
        parts.append(f'<text class="name" x="{middle:.1f}" y="{base + 15}" text-anchor="middle">{escape(name)}</text>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - all text above is escaped or made here


def _share(count: int, total: int) -> str:
    share = count / max(1, total)
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}" if share >= 0.001 else "under 0.1%"


def _short(count: int) -> str:
    """A count that fits above a column."""
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"
