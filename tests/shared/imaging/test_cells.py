"""Cells of a row: what they may hold, and that all faults of a row are told together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import DatasetError
from shared.imaging.cells import Cells, projections_of, view_of


def cells(**row: Any) -> Cells:
    return Cells(row, "t.csv, line 7")


def faults(made: Cells) -> str:
    try:
        made.check()
    except DatasetError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("value", "text"), [(" a ", "a"), (None, ""), (5, "5"), (1.5, "1.5"), (True, "1"), (False, "0")], ids=str)
def test_cell_is_read_as_text(value: Any, text: str) -> None:
    assert cells(a=value).text("a") == text
    assert cells().text("a") == ""


def test_list_is_no_cell() -> None:
    made = cells(a=[1])
    assert made.text("a") == ""
    assert faults(made) == "t.csv, line 7: column a must be text or a number"


@pytest.mark.parametrize(
    ("value", "sex"), [("Male", "Male"), ("f", "Female"), ("F", "Female"), ("", "Unknown"), ("O", "Unknown"), (None, "Unknown")]
)
def test_sex_is_one_of_three(value: Any, sex: str) -> None:
    assert cells(a=value).sex("a") == sex


@pytest.mark.parametrize(("value", "age"), [("57", 57), ("57.9", 57), (57, 57), ("0", 0), ("", None), ("120", 120)])
def test_age_is_whole_years(value: Any, age: int | None) -> None:
    assert cells(a=value).age("a") == age


@pytest.mark.parametrize(("value", "label"), [("1.0", 1), (1, 1), (True, 1), (0.0, 0), ("-1", -1), ("", None), (None, None)])
def test_label_keeps_what_it_says(value: Any, label: int | None) -> None:
    assert cells(a=value).label("a") == label


def test_faults_of_several_columns_are_told_together() -> None:
    made = cells(a="x", b="x", c="nan", d="0.5", e=" ")
    made.sex("a"), made.age("b"), made.age("c"), made.label("d"), made.required("e"), made.image(None, "f.png")
    assert faults(made) == (
        "t.csv, line 7: column a must be Male, Female or Unknown; column b must be a number; column c must be from 0 to 120; "
        "column d must be 1.0, 0.0, -1.0 or blank; column e must not be blank; the image f.png is missing from the data set's folder"
    )


def test_sound_row_passes() -> None:
    made = cells(a="M", b="3")
    assert (made.sex("a"), made.age("b"), made.image(Path("x"), "x")) == ("Male", 3, Path("x"))
    assert faults(made) == ""


@pytest.mark.parametrize(
    ("text", "view", "projections"),
    [
        ("AP", "AP", {"frontal", "AP"}),
        ("pa", "PA", {"frontal", "PA"}),
        ("LATERAL", "lateral", {"lateral"}),
        ("LL", "lateral", {"lateral"}),
        ("frontal", "frontal", {"frontal"}),
        ("", "unknown", {"other"}),
        ("AP  LLD", "AP LLD", {"other"}),
    ],
)
def test_views_are_named_and_asked_for(text: str, view: str, projections: set[str]) -> None:
    assert view_of(text) == view
    assert projections_of(view) == projections
