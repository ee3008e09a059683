"""The page is whole by itself, says what happened in plain words, and lets no prompt become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from shared.cli.page import data_uri, decimal, heat, interval, minutes, percent, render, verdict, whole
from shared.cli.report import Figure, PromptRow, Weight
from tests.shared.cli.reports import told_story

VOID = {"meta", "img", "br", "line", "circle", "polygon", "polyline"}


class Outline(HTMLParser):
    """Collects what a page refers to, and finds tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    return parser


def canaries() -> list[PromptRow]:
    return [row for row in told_story()[1].prompts if row.group == "canary"]


def test_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    _, report, gallery = told_story()
    html = render(report, gallery)
    page = outline(html)
    assert page.open == []
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert "//" not in re.sub(r"base64,[^\"]*", "", html)
    assert "<script" not in html


def test_page_shows_every_canary_three_ways_and_refusals_in_words() -> None:
    _, report, gallery = told_story()
    html = render(report, gallery)
    assert html.count('alt="Training film') == 3
    assert html.count('alt="Plain sample"') == 3
    assert html.count('alt="Mitigated sample"') == 2
    assert "refused: nothing was released" in html
    assert "No strategy helped." in html


def test_page_has_the_parts_that_a_reader_looks_for() -> None:
    _, report, gallery = told_story()
    text = outline(render(report, gallery)).text
    for part in ("Picture beside picture", "What was refused", "How to read this", "What this does not prove", "Spearman", "Pearson"):
        assert part in text
    assert "rehearsal" not in text


def test_rehearsal_is_marked_as_one() -> None:
    _, report, gallery = told_story(quick=True)
    assert "its figures mean nothing" in render(report, gallery)


def test_prompt_never_becomes_markup() -> None:
    _, report, gallery = told_story()
    first = report.prompts[0].model_copy(update={"prompt": "<script>alert(1)</script>", "words": [Weight(text="<b>x", weight=1)]})
    html = render(report.model_copy(update={"prompts": [first, *report.prompts[1:]]}), gallery)
    assert "<script" not in html
    assert "&lt;b&gt;x" in html


def test_verdict_counts_copies_in_words() -> None:
    assert verdict(canaries()) == (
        "Of 6 images drawn for the 3 planted prompts, 6 are copies of a training film. "
        "Screening flagged 3 of these 3 prompts before anything was drawn. "
        "With mitigation, none is a copy among 4 released images. "
        "For 1 prompt the mitigator released nothing."
    )


@pytest.mark.parametrize(
    ("weights", "glows"),
    [
        ([0.2, 0.8, 0.0], [25, 100, 0]),
        ([0.25, 0.25, 0.25, 0.25], [50, 50, 50, 50]),
        ([0.0], [0]),
        ([0.5, -0.1, 0.6], [75, 0, 90]),
        ([], []),
    ],
)
def test_words_glow_by_their_share(weights: list[float], glows: list[int]) -> None:
    words = [Weight(text=str(index), weight=weight) for index, weight in enumerate(weights)]
    assert heat(words) == [(str(index), glow) for index, glow in enumerate(glows)]


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.0, "0%"), (1.0, "100%"), (0.5, "50%"), (0.987, "98.7%"), (0.0041, "0.4%")])
def test_share_is_shown_in_per_cent(value: float | None, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.876, "88%"), (0.998, "99.8%"), (0.002, "0.2%"), (0.0, "0%"), (1.12, "112%")])
def test_headline_is_never_rounded_to_none_or_all(value: float | None, shown: str) -> None:
    assert whole(value) == shown


def test_small_texts() -> None:
    assert interval(Figure(value=0.5, low=0.25, high=0.75, n=8)) == "95% interval 25% to 75%, n = 8"
    assert interval(Figure.missing(3, "too few")) == "too few"
    assert (decimal(None), decimal(0.456), minutes(83.4), minutes(7.04)) == ("–", "0.46", "1 min 23 s", "7.0 s")
    assert data_uri(b"hi") == "data:image/png;base64,aGk="
