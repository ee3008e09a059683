"""What gates find, what they do about it, and that nothing is dropped without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from services.trainer import gates
from services.trainer.dataset_spec import DatasetSpec
from services.trainer.film_pictures import FilmPictures, PictureColumns
from services.trainer.film_rows import FilmColumns, spool_rows
from services.trainer.gates import (
    Examination,
    anonymity_table,
    examine_anonymity,
    examine_pictures,
    examine_rows,
    patients_together,
)
from shared.errors import DatasetError
from shared.imaging.sources import SourceFilm
from tests.services.trainer.films_in_memory import Films, film


def spec(**changed: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "x", "source": {"format": "phantom"}, "prompt": {"template": "demographics"}} | changed)


def columns(folder: Path, films: list[SourceFilm], chosen: DatasetSpec) -> FilmColumns:
    folder.mkdir(exist_ok=True)
    rows = spool_rows(Films(*films), chosen, folder, rows_per_group=5, count_tokens=None, on_rows=lambda _rows: None)
    return rows.columns()


class Pictures(FilmPictures):
    """Pictures that are told of, not decoded."""

    def __init__(self, shown: list[int], *, writing: tuple[int, ...] = (), alike: tuple[tuple[int, int], ...] = ()) -> None:
        digests = np.array([[number] * 32 for number in shown], dtype=np.uint8)
        self._found = PictureColumns(digests, np.isin(np.arange(len(shown)), writing))
        self._alike = alike

    def columns(self) -> PictureColumns:
        """As told."""
        return self._found

    def alike(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs among the wanted ones, by the later film."""
        pairs = sorted((pair for pair in self._alike if set(pair) <= set(wanted.tolist())), key=lambda pair: (pair[1], pair[0]))
        return np.array([pair[0] for pair in pairs], dtype=np.int64), np.array([pair[1] for pair in pairs], dtype=np.int64)


def examined(folder: Path, films: list[SourceFilm], pictures: Pictures, **changed: Any) -> Examination:
    chosen = spec(**changed)
    examination = examine_rows(columns(folder, films, chosen), chosen, token_limit=None)
    examine_pictures(examination, pictures, chosen, lambda: None)
    examine_anonymity(examination, chosen)
    return examination


def outcome(examination: Examination, gate: str) -> list[tuple[str, list[int]]]:
    return [(finding.outcome, finding.films.tolist()) for finding in examination.findings if finding.gate == gate]


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("action", ["report", "drop", "refuse"])
def test_marks_of_deidentification(tmp_path: Path, action: str) -> None:
    films = [film(n, impression="Edema on 3/4/2019." if n in {2, 3} else "Edema.") for n in range(6)]
    chosen = spec(prompt={"template": "impression"}, gates={"deidentification": {"action": action}})
    found = columns(tmp_path, films, chosen)
    if action == "refuse":
        with pytest.raises(DatasetError, match=r"2 films have de-identification marks.*\(line 4, 5\)") as caught:
            examine_rows(found, chosen, token_limit=None)
        assert caught.value.field == "gates.deidentification"
        return
    examination = examine_rows(found, chosen, token_limit=None)
    assert examination.kept.tolist() == [True, True, *[action != "drop"] * 2, True, True]
    result = examination.results["deidentification"]
    assert (result["films"], result["patients"], result["dropped"]) == (2, 1, 2 * (action == "drop"))
    assert result["markers"] == {"mark": 0, "date": 2, "number": 0}
    assert result["first_lines"] == [4, 5]


def test_scrubbed_films_are_counted_and_pass(tmp_path: Path) -> None:
    films = [film(n, impression="Edema on 3/4/2019." if n == 2 else "Edema.") for n in range(4)]
    chosen = spec(prompt={"template": "impression", "scrub": True}, gates={"deidentification": {"action": "refuse"}})
    result = examine_rows(columns(tmp_path, films, chosen), chosen, token_limit=None).results["deidentification"]
    assert (result["films"], result["scrubbed"]) == (0, 1)


def test_films_without_words_are_left_out_and_told_of(tmp_path: Path) -> None:
    films = [film(n, impression="Edema." if n else None) for n in range(4)]
    chosen = spec(prompt={"template": "impression"})
    examination = examine_rows(columns(tmp_path, films, chosen), chosen, token_limit=None)
    assert outcome(examination, "words") == [("dropped", [0])]
    assert examination.positions().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("limit", "films"), [(None, 0), (8, 0), (7, 1), (1, 4)])
def test_long_prompts(tmp_path: Path, limit: int | None, films: int) -> None:
    chosen = spec()
    found = columns(tmp_path, [film(n) for n in range(4)], chosen)
    found.tokens[:] = [7, 8, 7, 6]
    result = examine_rows(found, chosen, token_limit=limit).results["prompt_length"]
    assert (result["films"], result["limit"], result["longest"]) == (films, limit, 8 if limit else None)


def test_gates_that_drop_all_films_refuse_the_set(tmp_path: Path) -> None:
    chosen = spec(gates={"prompt_length": {"action": "drop"}})
    found = columns(tmp_path, [film(0)], chosen)
    found.tokens[:] = 9
    with pytest.raises(DatasetError, match="no film is left"):
        examine_rows(found, chosen, token_limit=8)


# ---------------------------------------------------------------- k-anonymity


def shared_prompts() -> list[SourceFilm]:
    """Ages 51, 51 and 52 of three patients, 77 twice of one, and 60 of six patients."""
    ages = [51, 51, 52, 77, 77, *[60] * 6]
    owners = ["a", "b", "c", "d", "d", *"efghij"]
    return [film(n, age=age, patient=owner) for n, (age, owner) in enumerate(zip(ages, owners, strict=True))]


def test_k_counts_patients_not_rows(tmp_path: Path) -> None:
    chosen = spec()
    examination = examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)
    assert anonymity_table(examination) == {
        "distinct": 4,
        "rows": 11,
        "patients": 10,
        "rows_k1": 3,
        "patients_k1": 2,
        "rows_k5": 5,
        "patients_k5": 4,
        "rows_k10": 11,
        "patients_k10": 10,
    }


@pytest.mark.parametrize(("k", "rare"), [(2, [2, 3, 4]), (3, [0, 1, 2, 3, 4]), (7, list(range(11)))])
def test_rare_prompts_are_reported(tmp_path: Path, k: int, rare: list[int]) -> None:
    chosen = spec(gates={"k_anonymity": {"k": k}})
    examination = examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)
    examine_anonymity(examination, chosen)
    assert outcome(examination, "k_anonymity") == [("reported", rare)]
    assert examination.kept.all()


def test_rare_prompts_are_dropped(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"k": 3, "action": "drop"}})
    examination = examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)
    examine_anonymity(examination, chosen)
    assert examination.positions().tolist() == list(range(5, 11))
    assert anonymity_table(examination)["rows_k5"] == 0


def test_rare_prompts_are_refused_before_pictures_are_read(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"k": 3, "action": "refuse"}})
    with pytest.raises(DatasetError, match="5 films have prompts of fewer than 3 patients"):
        examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)


def test_refusal_waits_where_pictures_may_drop_the_rare_films(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"k": 2, "action": "refuse"}, "burned_in": {"action": "drop"}})
    examination = examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)
    examine_pictures(examination, Pictures(list(range(11)), writing=(2, 3, 4)), chosen, lambda: None)
    examine_anonymity(examination, chosen)
    assert examination.positions().tolist() == [0, 1, *range(5, 11)]


def test_ages_of_rare_prompts_become_decades(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"k": 3, "action": "generalise"}})
    examination = examine_rows(columns(tmp_path, shared_prompts(), chosen), chosen, token_limit=None)
    examine_anonymity(examination, chosen)
    assert outcome(examination, "k_anonymity") == [("generalised", [0, 1, 2, 3, 4]), ("reported", [3, 4])]
    result = examination.results["k_anonymity"]
    assert (result["generalised"], result["films"], result["dropped"]) == (5, 2, 0)
    assert np.flatnonzero(examination.coarse).tolist() == [0, 1, 2, 3, 4]
    assert anonymity_table(examination)["distinct"] == 3


# ---------------------------------------------------------------- pictures


def test_equal_pictures_are_counted_within_and_across_patients(tmp_path: Path) -> None:
    films = [film(n, patient=owner) for n, owner in enumerate("aabbc")]
    examination = examined(tmp_path, films, Pictures([1, 1, 1, 2, 3]))
    result = examination.results["duplicates"]
    assert (result["films"], result["within_patient"], result["across_patients"]) == (2, 1, 1)
    (finding,) = (finding for finding in examination.findings if finding.gate == "duplicates")
    assert (finding.films.tolist(), finding.earlier.tolist()) == ([1, 2], [0, 0])  # type: ignore[union-attr]
    assert examination.kept.all()


def test_equal_pictures_but_the_first_are_dropped(tmp_path: Path) -> None:
    films = [film(n, patient=owner) for n, owner in enumerate("aabbc")]
    examination = examined(tmp_path, films, Pictures([1, 1, 1, 2, 3]), gates={"duplicates": {"action": "drop"}})
    assert examination.positions().tolist() == [0, 3, 4]


def test_dropped_film_is_no_reason_to_drop_another(tmp_path: Path) -> None:
    films = [film(n, patient=str(n)) for n in range(4)]
    pictures = Pictures([1, 2, 3, 4], alike=((0, 1), (1, 2), (0, 3)))
    examination = examined(tmp_path, films, pictures, gates={"near_duplicates": {"action": "drop"}})
    assert examination.positions().tolist() == [0, 2]
    reported = examined(tmp_path, films, pictures)
    assert outcome(reported, "near_duplicates") == [("reported", [1, 2, 3])]


def test_near_duplicates_are_refused(tmp_path: Path) -> None:
    films = [film(n) for n in range(3)]
    with pytest.raises(DatasetError, match=r"1 films look like an earlier film; .* \(line 4\)"):
        examined(tmp_path, films, Pictures([1, 2, 3], alike=((0, 2),)), gates={"near_duplicates": {"action": "refuse"}})


def test_tagged_and_written_films_are_found(tmp_path: Path) -> None:
    films = [film(n, burned_in=n == 0) for n in range(4)]
    result = examined(tmp_path, films, Pictures([1, 2, 3, 4], writing=(0, 2)), image_size=128).results["burned_in"]
    assert (result["films"], result["tagged"], result["examined"]) == (2, 1, True)
    assert examined(tmp_path, films, Pictures([1, 2, 3, 4])).results["burned_in"]["examined"] is False


def test_cap_keeps_so_many_films_of_each_patient_by_lot(tmp_path: Path) -> None:
    films = [film(n, patient="a" if n < 6 else str(n)) for n in range(9)]
    kept = {}
    for seed in range(6):
        examination = examined(tmp_path, films, Pictures(list(range(9))), max_films_per_patient=2, seed=seed)
        kept[seed] = examination.positions().tolist()
    assert all(len(positions) == 5 and positions[-3:] == [6, 7, 8] for positions in kept.values())
    assert len({tuple(positions) for positions in kept.values()}) > 1
    again = examined(tmp_path, films, Pictures(list(range(9))), max_films_per_patient=2, seed=3)
    assert again.positions().tolist() == kept[3]
    assert again.results["max_films_per_patient"]["dropped"] == 4


def test_patients_who_share_pictures_stay_together(tmp_path: Path) -> None:
    films = [film(n, patient=owner) for n, owner in enumerate("abcdeaf")]
    examination = examined(tmp_path, films, Pictures([1, 1, 3, 4, 5, 6, 7], alike=((2, 5), (3, 4))))
    names = examination.columns.patients.to_pylist()
    group = dict(zip(names, patients_together(examination).tolist(), strict=True))
    assert group["a"] == group["b"] == group["c"]
    assert group["d"] == group["e"]
    assert len({group["a"], group["d"], group["f"]}) == 3


def test_dropped_copies_do_not_bind_patients(tmp_path: Path) -> None:
    films = [film(n, patient=owner) for n, owner in enumerate("ab")]
    examination = examined(tmp_path, [*films, film(2, patient="b")], Pictures([1, 1, 2]), gates={"duplicates": {"action": "drop"}})
    assert len(set(patients_together(examination).tolist())) == 2


def test_first_findings_only_are_named(tmp_path: Path) -> None:
    chosen = spec(gates={"k_anonymity": {"k": 2}})
    films = [film(n, age=20 + n, patient=str(n)) for n in range(30)]
    with mock.patch.object(gates, "LISTED", 3):
        examination = examine_rows(columns(tmp_path, films, chosen), chosen, token_limit=None)
        examine_anonymity(examination, chosen)
    result = examination.results["k_anonymity"]
    assert (result["films"], result["first_lines"]) == (30, [2, 3, 4])
    assert isinstance(examination.columns.patients, pa.Array)
