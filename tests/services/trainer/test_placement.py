"""Where films go: by patient, by what they share, and from disk as from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.film_rows import FilmRows, spool_rows
from services.trainer.gates import Examination, examine_rows
from services.trainer.placement import FilmPlaces, place_kept, prompted
from shared.imaging.prompts import compose_prompt
from shared.imaging.sources import SourceFilm
from shared.imaging.splits import FOLDS, SPLITS, Candidate, place_films
from tests.services.trainer.films_in_memory import Films, film


def spec(**changed: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "source": {"format": "phantom"}, "prompt": {"template": "demographics"}} | changed)


def examined(folder: Path, films: list[SourceFilm], chosen: DatasetSpec, *links: tuple[int, int]) -> tuple[Examination, FilmRows]:
    rows = spool_rows(Films(*films), chosen, folder, rows_per_group=7, count_tokens=None, on_rows=lambda _rows: None)
    examination = examine_rows(rows.columns(), chosen, token_limit=None)
    examination.linked.append(np.array(links, dtype=np.int64).reshape(-1, 2).T)
    return examination, rows


def cohort(count: int) -> list[SourceFilm]:
    return [film(n, patient=f"p{n // 3}", age=30 + n % 17, view="AP" if n % 4 else "lateral") for n in range(count)]


def spelled(places: FilmPlaces) -> list[tuple[str, str, int]]:
    return [
        (SPLITS[split], FOLDS[fold], repeats)
        for split, fold, repeats in zip(places.split.tolist(), places.fold.tolist(), places.repeats.tolist(), strict=True)
    ]


@pytest.mark.parametrize("dropped", [[], [0, 5, 20, 21, 22]])
@pytest.mark.parametrize("canaries", [0, 4])
def test_films_are_placed_as_in_memory(tmp_path: Path, dropped: list[int], canaries: int) -> None:
    films = cohort(40)
    chosen = spec(control_fraction=0.3, canaries={"count": canaries, "repeats": 9}, seed=5)
    examination, rows = examined(tmp_path, films, chosen)
    examination.kept[dropped] = False
    candidates = [
        Candidate(key=film.key, patient=film.patient, view=film.view, prompt=compose_prompt("demographics", film, "ignore"))
        for n, film in enumerate(films)
        if n not in dropped
    ]
    expected = place_films(candidates, control_fraction=0.3, canaries=canaries, repeats=9, seed=5)
    assert spelled(place_kept(examination, rows, chosen)) == [(place.split, place.fold, place.repeats) for place in expected]


@pytest.mark.parametrize("seed", range(5))
def test_patients_who_share_a_picture_are_on_one_side(tmp_path: Path, seed: int) -> None:
    films = cohort(60)
    chosen = spec(control_fraction=0.4, seed=seed)
    examination, rows = examined(tmp_path, films, chosen, (0, 30), (30, 57), (9, 12))
    places = spelled(place_kept(examination, rows, chosen))
    assert places[0] == places[30] == places[57]
    assert places[9] == places[12]
    assert {split for split, _, _ in places} == {"train", "control"}


def test_prompts_are_taken_as_they_shall_be(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"action": "generalise"}})
    examination, rows = examined(tmp_path, cohort(9), chosen)
    examination.coarse[2] = True
    examination.kept[0] = False
    table = prompted(rows.group(0), examination, slice(0, 7))
    assert table.column("line").to_pylist() == [3, 4, 5, 6, 7, 8]
    assert table.column("prompt").to_pylist()[:2] == [
        "chest X-ray, AP, 31-year-old woman, edema",
        "chest X-ray, AP, woman aged 30-39, edema",
    ]
