"""The page of a data set: what it says, and that it is one file that nothing gets out of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from services.trainer.dataset_page import render_page
from services.trainer.html_pages import HEADERS
from shared.catalog import DatasetManifest, new_id

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


class Words(HTMLParser):
    """The words of a page, and where it points to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note tags and targets."""
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        """Note words."""
        self.words += data.split()

    @property
    def text(self) -> str:
        """All words."""
        return " ".join(self.words)


def changed(stocked_home: StockedHome, **fields: Any) -> DatasetManifest:
    return DatasetManifest.model_validate(stocked_home.dataset.model_dump() | fields)


def test_page_tells_counts_prompts_and_gates(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    manifest = stocked_home.dataset
    page = Words(render_page(manifest, stocked_catalog)).text
    assert f"{sum(manifest.counts.values())} films of {manifest.prompt_uniqueness['patients']} patients" in page
    for split, what in {"train": "trained on;", "control": "held out, never trained on;"}.items():
        assert f"{manifest.counts[split]} {what} {manifest.patients[split]} patients" in page
    assert all(warning in page for warning in manifest.warnings)
    assert f"{manifest.prompt_uniqueness['distinct']} different prompts" in page
    for part in ("Labels, present", "Sex", "View", "Age", "prompt of few patients k = 5", "looks like an earlier film", manifest.digest):
        assert part in page


def test_page_is_one_file(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    page = Words(render_page(stocked_home.dataset, stocked_catalog))
    assert len(page.links) == 1
    assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]{1000,}", page.links[0])
    assert page.tags.isdisjoint({"script", "link", "iframe", "form"})
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert HEADERS["Cache-Control"] == "private, no-store"


def test_page_says_no_prompt_and_no_patient(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    from shared.imaging.films import FilmTable

    page = render_page(stocked_home.dataset, stocked_catalog)
    for film in FilmTable(stocked_catalog.fetch(stocked_home.dataset)).facts:
        assert film.prompt not in page
        assert film.patient not in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "{{ 7 * 7 }}"])
def test_names_are_text_only(stocked_home: StockedHome, stocked_catalog: Catalog, name: str) -> None:
    page = Words(render_page(changed(stocked_home, name=name, warnings=[name]), stocked_catalog))
    assert " ".join(name.split()) in page.text
    assert "script" not in page.tags
    assert len(page.links) == 1


def test_findings_are_explained(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    common = {"action": "drop", "patients": 2, "dropped": 3, "first_lines": list(range(2, 22))}
    gates = {
        "deidentification": common | {"films": 30, "markers": {"mark": 4, "date": 0, "number": 9}, "scrubbed": 7},
        "prompt_length": common | {"films": 3, "limit": 77, "longest": 90},
        "duplicates": common | {"films": 3, "within_patient": 1, "across_patients": 2},
        "k_anonymity": common | {"films": 3, "k": 5, "generalised": 12},
        "burned_in": common | {"films": 3, "tagged": 0, "examined": False},
    }
    page = Words(render_page(changed(stocked_home, gates=gates, left_out=1234), stocked_catalog)).text
    for part in (
        "1,234 left out by the gates",
        "in the source: 4 marks, 9 numbers; 7 films scrubbed drop 30 2 3 2, 3, 4, 5, 6, 7, 8, 9, …",
        "longest 90 of 77 tokens",
        "1 within one patient, 2 across patients",
        "k = 5; 12 films with the decade instead of the age",
        "pictures too small to be examined; tags only",
    ):
        assert part in page


def test_data_set_of_an_earlier_version_has_a_page(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    fields = {"id": new_id("dataset"), "files": [], "digest": "", "histograms": {}, "gates": {}, "parts": []}
    older = changed(stocked_home, **fields, prompt_uniqueness={"distinct": 3, "rows_k1": 1})
    page = Words(render_page(older, stocked_catalog))
    assert page.links == []
    assert "How it was made" in page.text
