"""What is told about a data set."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.dataset_summary import FINDINGS_NAME, histograms, split_counts, warnings, write_findings
from services.trainer.film_rows import FilmRows, spool_rows
from services.trainer.gates import Examination, examine_rows
from services.trainer.placement import FilmPlaces
from shared.imaging.clauses import LABELS
from tests.services.trainer.films_in_memory import Films, film

SPEC = DatasetSpec.model_validate({"name": "x", "source": {"format": "chexpert", "uri": "file:///x"}, "max_films_per_patient": 3})


@pytest.fixture
def examined(tmp_path: Path) -> tuple[Examination, FilmRows]:
    films = [
        film(
            n,
            sex="Male" if n % 3 else "Female",
            age=[None, 9, 10, 59, 90][n % 5],
            view="PA" if n == 4 else "AP",
            labels=dict.fromkeys(LABELS) | {"Edema": 1 if n < 4 else -1, "Fracture": 0},
        )
        for n in range(10)
    ]
    rows = spool_rows(Films(*films), SPEC, tmp_path, rows_per_group=4, count_tokens=None, on_rows=lambda _rows: None)
    return examine_rows(rows.columns(), SPEC, token_limit=None), rows


def test_kept_films_are_counted(examined: tuple[Examination, FilmRows]) -> None:
    examination, _ = examined
    examination.kept[9] = False
    assert histograms(examination) == {
        "sex": {"Male": 6, "Female": 3},
        "age": {"0-9": 2, "10-19": 2, "50-59": 2, "90-99": 1, "unknown": 2},
        "view": {"AP": 8, "PA": 1},
        "labels": {"Edema": 4},
        "uncertain_labels": {"Edema": 5},
    }


def test_splits_are_counted_by_film_and_patient(examined: tuple[Examination, FilmRows]) -> None:
    places = FilmPlaces(np.array([0, 0, 1, 1, 0, 0, 0, 2, 0, 0], np.uint8), np.zeros(10, np.uint8), np.ones(10, np.int32))
    assert split_counts(examined[0], places) == ({"train": 7, "control": 2, "canary": 1}, {"train": 4, "control": 1, "canary": 1})


def test_findings_are_listed_with_line_record_and_what_they_equal(examined: tuple[Examination, FilmRows], tmp_path: Path) -> None:
    examination, rows = examined
    examination.judge("duplicates", "drop", np.array([2, 7]), "x", np.array([0, 5]))
    examination.judge("burned_in", "report", np.array([8]), "x")
    write_findings(examination, rows, tmp_path)
    with (tmp_path / FINDINGS_NAME).open(newline="") as file:
        listed = list(csv.reader(file))
    assert listed == [
        ["gate", "outcome", "line", "key", "record", "earlier_line"],
        ["duplicates", "dropped", "4", "train/2.jpg", "", "2"],
        ["duplicates", "dropped", "9", "train/7.jpg", "", "7"],
        ["burned_in", "reported", "10", "train/8.jpg", "6", ""],
    ]


def test_nothing_is_listed_where_nothing_was_found(examined: tuple[Examination, FilmRows], tmp_path: Path) -> None:
    write_findings(*examined, tmp_path)
    assert not (tmp_path / FINDINGS_NAME).exists()


@pytest.mark.parametrize(
    ("results", "warning"),
    [
        ({"words": {"films": 2, "dropped": 2}}, "2 films have no findings and were left out"),
        ({"burned_in": {"films": 3, "dropped": 0}}, "3 films seem to have writing in the picture"),
        ({"burned_in": {"films": 3, "dropped": 3}}, "3 films seem to have writing in the picture and were left out"),
        ({"near_duplicates": {"films": 1, "dropped": 0}}, "1 films look like another film with other pixels"),
        (
            {"duplicates": {"films": 1, "dropped": 0, "across_patients": 1}, "near_duplicates": {"films": 2, "across_patients": 1}},
            "2 films show the picture of another patient; look at them, for a name or a label may be wrong",
        ),
        ({"prompt_length": {"films": 9, "dropped": 0}}, "9 films have prompts longer than the encoder reads"),
        ({"k_anonymity": {"films": 4, "dropped": 0}}, "4 films have prompts of fewer than 5 patients"),
        ({"k_anonymity": {"films": 0, "generalised": 6}}, "6 films have prompts with the decade instead of the age"),
        ({"max_films_per_patient": {"films": 5, "dropped": 5}}, "5 films are beyond 3 of one patient and were left out"),
    ],
)
def test_findings_are_warned_of(results: dict[str, dict[str, Any]], warning: str) -> None:
    told = warnings(SPEC, results, 0, {"train": 900, "control": 100})
    assert warning in told
    assert warnings(SPEC, {}, 0, {"train": 900, "control": 100}) == []


def test_few_controls_missing_ages_and_canaries_are_warned_of() -> None:
    assert warnings(SPEC, {}, 3, {"train": 900, "control": 99, "canary": 2}) == [
        "3 films have no age",
        "99 control films are too few to measure a false-positive rate of 1 %",
        "2 films of patients are repeated for models to learn by heart; do not share a model trained on them",
    ]
    phantom = DatasetSpec.model_validate({"name": "x", "source": {"format": "phantom"}})
    assert warnings(phantom, {}, 0, {"control": 100, "canary": 2}) == []
