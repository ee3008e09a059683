"""Pages for people."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from services.trainer.html_pages import HEADERS, page_template


def test_pages_load_nothing_and_nothing_keeps_them() -> None:
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'")
    assert HEADERS["Cache-Control"] == "private, no-store"


def test_templates_refuse_to_be_rendered_without_what_they_tell() -> None:
    with pytest.raises(UndefinedError):
        page_template("search.html").render()


def test_templates_know_how_counts_are_written() -> None:
    template = page_template("dataset.html").environment.from_string("{{ 12345 | whole }} {{ '<b>' }}")
    assert template.render() == "12,345 &lt;b&gt;"
