"""Rows on disk: what is kept of each film, and the columns that are decided on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.film_rows import MARKERS, NO_AGE, UNSAID, FilmRows, films_of, spool_rows
from shared.errors import DatasetError
from shared.imaging.clauses import LABELS
from tests.services.trainer.films_in_memory import Films, film


def spec(**changed: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "source": {"format": "phantom"}} | changed)


def spool(folder: Path, films: Films, count: Any = None, **changed: Any) -> FilmRows:
    return spool_rows(films, spec(**changed), folder, rows_per_group=3, count_tokens=count, on_rows=lambda _rows: None)


def test_rows_come_back_in_groups(tmp_path: Path) -> None:
    rows = spool(tmp_path, Films(*map(film, range(7))))
    assert rows.sizes() == [3, 3, 1]
    assert rows.group(1).column("key").to_pylist() == ["train/3.jpg", "train/4.jpg", "train/5.jpg"]
    assert rows.group(0).column("prompt")[0].as_py() == "chest X-ray, AP, edema"
    assert [(film.line, film.path) for film in films_of(rows.group(2))] == [(8, Path("/data/train/6.jpg"))]


def test_columns_hold_what_is_decided_on(tmp_path: Path) -> None:
    columns = spool(tmp_path, Films(*(film(n, age=None if n == 4 else 50, sex="Male" if n else "Female") for n in range(7)))).columns()
    assert len(columns) == 7
    assert columns.patients.take(columns.patient).to_pylist() == ["p0", "p0", "p1", "p1", "p2", "p2", "p3"]
    assert columns.sexes.take(columns.sex).to_pylist() == ["Female", *["Male"] * 6]
    assert columns.age.tolist() == [50, 50, 50, 50, NO_AGE, 50, 50]
    assert columns.line.tolist() == list(range(2, 9))
    assert columns.labels_NL[0, [LABELS.index(name) for name in ("Edema", "Pneumonia", "Fracture")]].tolist() == [1, -1, UNSAID]
    assert columns.described.all()
    assert not columns.marked.any()


def test_prompts_that_differ_in_case_and_punctuation_have_one_code(tmp_path: Path) -> None:
    films = [film(n, impression=text) for n, text in enumerate(["Mild edema.", "mild  EDEMA", "Mild oedema."])]
    columns = spool(tmp_path, Films(*films), prompt={"template": "impression"}).columns()
    assert columns.prompt[0] == columns.prompt[1] != columns.prompt[2]


def test_film_without_words_has_no_prompt(tmp_path: Path) -> None:
    rows = spool(tmp_path, Films(film(0), film(1, impression="Edema.")), prompt={"template": "impression"})
    assert rows.columns().described.tolist() == [False, True]
    assert rows.group(0).column("prompt").to_pylist() == [None, "Edema."]


@pytest.mark.parametrize("scrub", [False, True])
def test_markers_are_counted_and_scrubbed_if_asked(tmp_path: Path, scrub: bool) -> None:
    films = Films(film(0, impression="Edema since 03/04/2019. ___"), film(1, impression="Edema."))
    rows = spool(tmp_path, films, prompt={"template": "impression", "scrub": scrub})
    columns = rows.columns()
    assert columns.markers_NK[:, MARKERS.index("date")].tolist() == [1, 0]
    assert columns.markers_NK.sum(1).tolist() == [2, 0]
    assert columns.marked.tolist() == [not scrub, False]
    assert ("2019" in rows.group(0).column("prompt")[0].as_py()) is not scrub


def test_prompt_with_the_decade_is_kept_where_it_may_be_needed(tmp_path: Path) -> None:
    films = Films(film(7), film(8), film(9, age=None))
    rows = spool(tmp_path, films, prompt={"template": "demographics"}, gates={"k_anonymity": {"action": "generalise"}})
    assert rows.group(0).column("coarse_prompt").to_pylist() == [*["chest X-ray, AP, woman aged 50-59, edema"] * 2, None]
    columns = rows.columns()
    assert columns.prompt[0] != columns.prompt[1]
    assert columns.coarse_prompt[0] == columns.coarse_prompt[1]
    assert columns.coarse_prompt[2] == columns.prompt[2]


def test_tokens_are_counted_by_the_encoder(tmp_path: Path) -> None:
    def count(prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) + 2 for prompt in prompts]

    assert spool(tmp_path, Films(*map(film, range(4))), count).columns().tokens.tolist() == [6, 6, 6, 6]


def test_finished_rows_are_not_read_again(tmp_path: Path) -> None:
    source = Films(film(0))
    spool(tmp_path, source)
    with mock.patch.object(source, "films", side_effect=AssertionError):
        assert spool(tmp_path, source).sizes() == [1]


def test_malformed_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 9"):
        spool(tmp_path, Films(*map(film, range(5)), DatasetError("line 9: no")))
    assert list(tmp_path.iterdir()) == []


def test_memory_of_the_columns_does_not_hold_texts(tmp_path: Path) -> None:
    films = Films(*(film(n, impression=f"{n} " + "long words " * 200) for n in range(200)))
    columns = spool(tmp_path, films, prompt={"template": "impression"}).columns()
    held = sum(value.nbytes for value in vars(columns).values() if isinstance(value, np.ndarray))
    assert held / len(columns) < 100
