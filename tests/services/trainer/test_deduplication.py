"""Films that show the same picture, repeats and films beyond the cap are not learnt from, and are listed."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from services.trainer.deduplication import DROPPED_NAME, Dropped, deduplicate
from services.trainer.deduplication_rules import Deduplication
from services.trainer.training_set import TrainingSet
from shared.imaging.phantom import draw, make_cohort

if TYPE_CHECKING:
    from pathlib import Path

ALL = Deduplication(films_per_patient=None)
COUNT = 100


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A hundred films, no two of which look alike."""
    return np.stack([draw(film, 64) for film in make_cohort(80, 3) if film.view != "lateral"][:COUNT])


def made(pictures: np.ndarray, patients: list[int], repeats: list[int] | None = None) -> TrainingSet:
    """Films of these patients; record numbers are not rows."""
    count = len(pictures)
    return TrainingSet(
        pictures,
        [f"film {number}" for number in range(count)],
        np.array([1] * count if repeats is None else repeats),
        np.arange(count) * 10 + 7,
        np.array(patients),
    )


def reencoded(film: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer))


def toned(film: np.ndarray) -> np.ndarray:
    return (255 * (film / 255) ** 0.85).astype(np.uint8)


def listed(dropped: Dropped) -> list[tuple[Any, ...]]:
    """The table, row by row."""
    assert dropped.table.column_names == ["record", "reason", "kept", "visits"]
    return [tuple(row.values()) for row in dropped.table.to_pylist()]


def test_films_of_distinct_pictures_are_left_as_they_are(pictures: np.ndarray) -> None:
    films = made(pictures, [number // 3 for number in range(COUNT)])
    left, dropped = deduplicate(films, ALL)
    assert left.prompts == films.prompts
    assert np.array_equal(left.images_NHW, films.images_NHW)
    assert np.array_equal(left.records, films.records)
    assert listed(dropped) == []
    assert set(dropped.totals().values()) == {0}


@pytest.mark.parametrize("altered", [reencoded, toned])
def test_planted_copies_of_a_patient_are_dropped(pictures: np.ndarray, altered: Any) -> None:
    """Each tenth film comes once more, altered, and each twentieth a third time, as it is."""
    near = np.stack([altered(film) for film in pictures[::10]])
    copies = np.concatenate([near, pictures[::20]])
    patients = [*range(COUNT), *range(0, COUNT, 10), *range(0, COUNT, 20)]
    left, dropped = deduplicate(made(np.concatenate([pictures, copies]), patients), ALL)
    assert left.prompts == [f"film {number}" for number in range(COUNT)]
    kept = [number * 10 + 7 for number in (*range(0, COUNT, 10), *range(0, COUNT, 20))]
    reasons = ["near_duplicates"] * 10 + ["duplicates"] * 5
    assert listed(dropped) == [(1007 + 10 * number, reasons[number], kept[number], 1) for number in range(15)]
    assert dropped.totals() == {
        "dropped_duplicates": 5,
        "dropped_near_duplicates": 10,
        "dropped_beyond_cap": 0,
        "dropped_repeats": 0,
        "clusters_across_patients": 0,
        "films_across_patients": 0,
    }


def test_the_same_picture_under_two_names_stays_and_is_counted(pictures: np.ndarray) -> None:
    """Film 3 is patient 3's; patients 200 and 201 have it too, 200 twice."""
    copies = np.stack([pictures[3], reencoded(pictures[3]), toned(pictures[3])])
    left, dropped = deduplicate(made(np.concatenate([pictures, copies]), [*range(COUNT), 200, 200, 201]), ALL)
    assert left.records.tolist() == [*range(7, 1007, 10), 1007, 1027]
    assert listed(dropped) == [(1017, "near_duplicates", 1007, 1)]
    assert (dropped.clusters_across_patients, dropped.films_across_patients) == (1, 3)


@pytest.mark.parametrize("cap", [1, 2, 5, None])
def test_distinct_films_of_a_patient_stay_up_to_the_cap(pictures: np.ndarray, cap: int | None) -> None:
    """The first ones in the data set's order; copies do not count against the cap."""
    patients = np.random.default_rng(0).integers(0, 20, COUNT).tolist()
    films = made(np.concatenate([pictures[:1], pictures]), [patients[0], *patients])
    left, dropped = deduplicate(films, Deduplication(films_per_patient=cap))
    seen: Counter[int] = Counter()
    expected = []
    for row in [0, *range(2, COUNT + 1)]:
        seen[int(films.patients[row])] += 1
        if cap is None or seen[int(films.patients[row])] <= cap:
            expected.append(row)
    assert left.records.tolist() == films.records[expected].tolist()
    assert dropped.totals()["dropped_beyond_cap"] == COUNT - len(expected)
    assert [row for row in listed(dropped) if row[1] == "duplicates"] == [(17, "duplicates", 7, 1)]
    assert all(row[2] is None for row in listed(dropped) if row[1] == "beyond_cap")


def test_repeats_become_one_visit(pictures: np.ndarray) -> None:
    """A canary that is shown forty times an epoch is shown once; a repeated film that is dropped takes its visits along."""
    films = made(np.concatenate([pictures[:3], pictures[:1]]), [0, 1, 2, 0], [40, 1, 0, 5])
    left, dropped = deduplicate(films, ALL)
    assert left.repeats.tolist() == [1, 1, 0]
    assert listed(dropped) == [(7, "repeats", 7, 39), (37, "duplicates", 7, 5)]
    assert dropped.totals()["dropped_repeats"] == 39
    assert dropped.table.column("visits").to_numpy().sum() == films.repeats.sum() - left.repeats.sum()


def test_nothing_is_lost_without_a_line_and_again_drops_nothing(pictures: np.ndarray) -> None:
    """Invariants on a muddle: every film is left or listed, visits add up, order stays, and one pass is enough."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 40, 150)
    muddle = np.stack([(reencoded, toned, np.copy)[kind](pictures[row]) for kind, row in zip(rng.integers(0, 3, 150), rows, strict=True)])
    films = made(muddle, rng.integers(0, 12, 150).tolist(), rng.integers(1, 4, 150).tolist())
    rule = Deduplication(films_per_patient=3)
    left, dropped = deduplicate(films, rule)
    gone = [row[0] for row in listed(dropped) if row[1] != "repeats"]
    named = {row[2] for row in listed(dropped)}
    assert named - {None} <= set(left.records.tolist())  # what is in a film's place was not dropped itself
    assert None in named
    assert sorted([*left.records.tolist(), *gone]) == films.records.tolist()
    assert left.records.tolist() == sorted(left.records.tolist())
    assert sum(row[3] for row in listed(dropped)) == films.repeats.sum() - len(left.prompts)
    assert {prompt.split()[1] for prompt in left.prompts} == {str(record // 10) for record in left.records}
    assert max(Counter(left.patients.tolist()).values()) == 3
    shown = Counter(zip(left.patients.tolist(), rows[left.records // 10].tolist(), strict=True))
    assert set(shown.values()) == {1}
    again, nothing = deduplicate(left, rule)
    assert again.records.tolist() == left.records.tolist()
    assert listed(nothing) == []


def test_few_films_have_copies_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    one, _ = deduplicate(made(noise[:1], [0]), ALL)
    assert one.prompts == ["film 0"]
    left, _ = deduplicate(made(noise[[0, 1, 0, 2]], [0, 0, 0, 0]), ALL)
    assert left.prompts == ["film 0", "film 1", "film 3"]


def test_list_holds_numbers_and_reasons_alone(pictures: np.ndarray, tmp_path: Path) -> None:
    _, dropped = deduplicate(made(np.concatenate([pictures[:2], pictures[:2]]), [0, 0, 0, 0]), Deduplication(films_per_patient=1))
    dropped.write(tmp_path)
    assert pq.read_table(tmp_path / DROPPED_NAME).to_pydict() == {
        "record": [17, 27, 37],
        "reason": ["beyond_cap", "duplicates", "duplicates"],
        "kept": [None, 7, None],
        "visits": [1, 1, 1],
    }
