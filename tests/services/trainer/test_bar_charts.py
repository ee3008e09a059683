"""Counts as bars."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from services.trainer.bar_charts import column_chart, row_chart, share_chart

SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: str) -> ET.Element:
    return ET.fromstring(str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314 - made here


def texts(chart: str) -> list[str | None]:
    return [element.text for element in parsed(chart).iter(f"{SVG}text")]


def test_rows_are_as_long_as_their_counts() -> None:
    chart = row_chart("Films", {"Male": 4000, "Female": 2000, "<odd>": 3}, 6003)
    widths = [float(bar.get("width") or 0) for bar in parsed(chart).iter(f"{SVG}rect")]
    assert widths[0] == 2 * widths[1]
    assert 0 < widths[2] < 2
    assert texts(chart) == ["Male", "4,000 · 67%", "Female", "2,000 · 33%", "<odd>", "3 · under 0.1%"]


def test_shares_are_bars_and_percents() -> None:
    chart = share_chart("Shares", {"learning rate": 0.625, "mid": 0.0})
    widths = [float(bar.get("width") or 0) for bar in parsed(chart).iter(f"{SVG}rect")]
    assert widths[0] > widths[1] > 0
    assert texts(chart) == ["learning rate", "62%", "mid", "0%"]


def test_columns_are_as_high_as_their_counts() -> None:
    chart = column_chart("Ages", {"0-9": 0, "10-19": 123_456, "20-29": 61_728})
    heights = [float(bar.get("height") or 0) for bar in parsed(chart).iter(f"{SVG}rect")]
    assert heights[1] == 2 * heights[2]
    assert texts(chart) == ["0", "0-9", "123k", "10-19", "62k", "20-29"]


def test_empty_charts_are_sound() -> None:
    assert texts(row_chart("none", {}, 0)) == texts(column_chart("none", {})) == []
