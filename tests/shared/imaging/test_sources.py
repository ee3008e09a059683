"""Problems of a source are told together: the first in full, the others as a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import DatasetError
from shared.imaging.sources import PROBLEMS_TOLD, RowProblems, SourceFilm


def test_source_without_problems_passes() -> None:
    RowProblems().check()


def test_single_problem_is_told_as_it_is() -> None:
    problems = RowProblems()
    problems.add("train.csv, line 7: no age", field="source")
    with pytest.raises(DatasetError) as refusal:
        problems.check()
    assert (str(refusal.value), refusal.value.field) == ("train.csv, line 7: no age", "source")


def test_first_problems_are_told_and_all_are_counted() -> None:
    problems = RowProblems()
    for line in range(2, 5002):
        problems.add(f"line {line}")
    with pytest.raises(DatasetError) as refusal:
        problems.check()
    head, *told, more = str(refusal.value).splitlines()
    assert len(problems) == 5000
    assert head == "5000 rows or films cannot be used:"
    assert told == [f"line {line}" for line in range(2, 2 + PROBLEMS_TOLD)]
    assert more == "and 4980 more"


def test_film_without_a_line_is_named_by_its_key() -> None:
    film = SourceFilm(line=0, key="a/b.dcm", path=Path("b"), patient="p", study="s", view="AP", sex="Male", age=1, labels={})
    assert film.place == "a/b.dcm"
