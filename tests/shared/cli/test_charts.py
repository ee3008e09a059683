"""Charts are well-formed SVG whose marks lie where the figures say."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from shared.cli.charts import Axes, nice_range, roc_chart, score_chart, similarity_chart, swarm
from shared.cli.report import Curve, PromptRow
from tests.shared.cli.reports import told_story


def rows(group: str) -> list[PromptRow]:
    return [row for row in told_story()[1].prompts if row.group == group]


def marks(svg: str, kind: str) -> list[ET.Element]:
    return [element for element in ET.fromstring(svg).iter() if element.get("class") == kind]  # noqa: S314 - made here


def test_roc_curve_runs_from_corner_to_corner_in_steps() -> None:
    svg = roc_chart(Curve(false_positive_rate=[0.0, 0.0, 0.5, 1.0], true_positive_rate=[0.0, 0.8, 0.8, 1.0]))
    (curve,) = marks(svg, "curve")
    points = [tuple(map(float, point.split(","))) for point in str(curve.get("points")).split()]
    axes = Axes(0, 1, 0, 1)
    assert points[0] == pytest.approx((axes.x(0), axes.y(0)), abs=0.1)
    assert points[-1] == pytest.approx((axes.x(1), axes.y(1)), abs=0.1)
    assert all(first[0] == second[0] or first[1] == second[1] for first, second in pairwise(points))


def test_every_prompt_is_a_dot_that_tells_its_score() -> None:
    canaries, controls = rows("canary"), rows("control")
    svg = score_chart(canaries, controls, 2.0)
    assert (len(marks(svg, "canary")), len(marks(svg, "control"))) == (len(canaries), len(controls))
    assert "canary: score 3.000" in svg
    assert len(marks(svg, "limit")) == 1


def test_similarity_is_drawn_for_prompts_that_were_drawn_only() -> None:
    svg = similarity_chart(told_story()[1].prompts, score_threshold=2.0, copy_threshold=0.9)
    assert (len(marks(svg, "canary")), len(marks(svg, "control"))) == (3, 9)
    assert len(marks(svg, "limit")) == 2
    assert len(marks(similarity_chart(rows("canary"), score_threshold=2.0, copy_threshold=None), "limit")) == 1


def test_chart_says_in_words_what_it_shows() -> None:
    assert re.search(r'role="img" aria-label="[^"]+"', roc_chart(Curve(false_positive_rate=[0, 1], true_positive_rate=[0, 1])))


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.93, 0.94], [5.0], [-3.0, 40.0]])
def test_range_holds_its_values_between_round_numbers(values: list[float]) -> None:
    low, high = nice_range(values)
    assert low < min(values)
    assert high > max(values)


def test_dots_of_a_swarm_do_not_hide_one_another() -> None:
    positions = [100.0] * 10 + [101.0] * 5
    offsets = swarm(positions, room=100, radius=3)
    dots = list(zip(positions, offsets, strict=True))
    distances = [((a - c) ** 2 + (b - d) ** 2) ** 0.5 for i, (a, b) in enumerate(dots) for c, d in dots[:i]]
    assert min(distances) >= 6 - 1e-9
    assert offsets[0] == 0.0


def test_crowded_swarm_stays_within_its_room() -> None:
    offsets = swarm([100.0 + n % 7 for n in range(300)], room=46)
    assert max(map(abs, offsets)) <= 46
    assert len(set(offsets)) > 20
    assert swarm([], room=46) == []
