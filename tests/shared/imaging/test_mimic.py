"""Reading MIMIC-CXR-JPG folders: joins by film and by study, reports, and damage that is named."""

from __future__ import annotations

import csv
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import DatasetError, ForbiddenError
from shared.imaging.clauses import LABELS
from shared.imaging.mimic import MAX_REPORT_BYTES, MimicFolder, _read_labels, _read_splits
from shared.imaging.pixels import read_picture
from shared.imaging.sources import RowProblems, SourceFilm

# The tables' exact columns, in their order.
METADATA = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]
SPLIT = ["dicom_id", "study_id", "subject_id", "split"]
LABELLED = ["subject_id", "study_id", *sorted(LABELS)]

FILMS: list[dict[str, str]] = [
    {"dicom_id": "02aa804e-bde0afdd", "subject_id": "10000032", "study_id": "50414267", "ViewPosition": "PA", "split": "train"},
    {"dicom_id": "174413ec-4ec4c1f7", "subject_id": "10000032", "study_id": "50414267", "ViewPosition": "LATERAL", "split": "train"},
    {"dicom_id": "2a2277a9-b0ded155", "subject_id": "10000032", "study_id": "53189527", "ViewPosition": "AP", "split": "train"},
    {"dicom_id": "e084de3b-be89b11e", "subject_id": "11000764", "study_id": "57375967", "ViewPosition": "", "split": "validate"},
    {"dicom_id": "68b5c4b1-227d0485", "subject_id": "11000764", "study_id": "57375968", "ViewPosition": "AP LLD", "split": "test"},
]
STUDIES = [
    {"subject_id": "10000032", "study_id": "50414267", "Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"},
    {"subject_id": "11000764", "study_id": "57375967", "No Finding": "1.0"},
]
REPORT = """                                 FINAL REPORT
 INDICATION:  ___F with new onset ascites

 FINDINGS:

 There is mild
 edema.

 IMPRESSION:

 Mild edema.
"""
Maker = Callable[..., Path]


def write_table(path: Path, columns: list[str], rows: list[dict[str, str]], *, packed: bool = False, **options: Any) -> None:
    target = path.with_name(path.name + ".gz") if packed else path
    with gzip.open(target, "wt", newline="") if packed else target.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", **options)
        writer.writeheader()
        writer.writerows(rows)


def path_of(film: dict[str, str]) -> str:
    subject = film["subject_id"]
    return f"files/p{subject[:2]}/p{subject}/s{film['study_id']}/{film['dicom_id']}.jpg"


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder of these films and studies, with a report of the first study."""

    def make(films: list[dict[str, str]] = FILMS, studies: list[dict[str, str]] = STUDIES, **options: Any) -> Path:
        folder = tmp_path / "mimic-cxr-jpg"
        for film in films:
            path = folder / path_of(film)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((24, 32), 99, dtype=np.uint8)).save(path, quality=95)
        write_table(folder / "mimic-cxr-2.0.0-metadata.csv", METADATA, films, **options)
        write_table(folder / "mimic-cxr-2.0.0-split.csv", SPLIT, films, **options)
        write_table(folder / "mimic-cxr-2.0.0-chexpert.csv", LABELLED, studies, **options)
        (folder / "files/p10/p10000032/s50414267.txt").write_text(REPORT)
        return folder

    return make


def read(folder: Path, **options: Any) -> list[SourceFilm]:
    return list(MimicFolder(folder, **({"views": ["frontal"]} | options)).films())


# ---------------------------------------------------------------- what is fine


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"lineterminator": "\r\n"}], ids=["plain", "gzip", "CRLF"])
def test_rows_become_films_with_their_studys_labels(make: Maker, options: dict[str, Any]) -> None:
    first, second = read(make(**options))
    assert (first.line, first.key) == (2, "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg")
    assert (first.patient, first.study, first.view, first.sex, first.age) == ("p10000032", "s50414267", "PA", "Unknown", None)
    assert {name: value for name, value in first.labels.items() if value is not None} == {"Edema": 1, "Pneumonia": -1, "Fracture": 0}
    assert (second.line, second.view, set(second.labels.values())) == (4, "AP", {None}), "a study without labels mentions nothing"
    assert read_picture(first, 8).mean() == 99


def test_films_of_one_study_share_labels_and_report(make: Maker) -> None:
    folder = make()
    first, second, third = read(folder, views=["frontal", "lateral"], reports=folder)
    assert (first.study, first.labels, first.impression) == (second.study, second.labels, second.impression)
    assert (first.impression, first.report) == ("Mild edema.", "There is mild edema. Mild edema.")
    assert (third.impression, third.report) == (None, None)


def test_reports_are_read_only_if_asked_for(make: Maker) -> None:
    assert read(make())[0].impression is None


def test_reports_may_lie_in_a_folder_of_their_own(make: Maker, tmp_path: Path) -> None:
    folder = make()
    elsewhere = tmp_path / "mimic-cxr" / "files/p10/p10000032"
    elsewhere.mkdir(parents=True)
    (elsewhere / "s53189527.txt").write_text("IMPRESSION: None.")
    films = read(folder, reports=tmp_path / "mimic-cxr", roots=[tmp_path])
    assert [film.impression for film in films] == [None, "None."]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"views": ["lateral"]}, [3]),
        ({"views": ["other"]}, [5, 6]),
        ({"views": ["other"], "splits": ["test"]}, [6]),
        ({"views": ["AP", "PA"], "splits": ["train"]}, [2, 4]),
    ],
)
def test_views_and_splits_are_filtered(make: Maker, options: dict[str, Any], lines: list[int]) -> None:
    assert [film.line for film in read(make(), **options)] == lines


def test_other_labeller_has_a_table_of_its_own(make: Maker) -> None:
    folder = make()
    write_table(folder / "mimic-cxr-2.0.0-negbio.csv", LABELLED, [{"study_id": "50414267", "Pneumothorax": "1.0"}])
    assert read(folder, labeller="negbio")[0].labels["Pneumothorax"] == 1


def test_fingerprint_is_over_all_tables(make: Maker) -> None:
    folder = make()
    before = MimicFolder(folder, views=["frontal"]).fingerprint()
    write_table(folder / "mimic-cxr-2.0.0-chexpert.csv", LABELLED, [])
    assert MimicFolder(folder, views=["frontal"]).fingerprint() != before


def test_joined_tables_are_held_in_few_bytes_a_row(tmp_path: Path) -> None:
    count = 20_000
    films = [{"dicom_id": f"film-{n}", "study_id": str(n), "subject_id": "10", "split": "train"} for n in range(count)]
    write_table(tmp_path / "split.csv", SPLIT, films)
    write_table(tmp_path / "labels.csv", LABELLED, films)
    problems = RowProblems()
    tracemalloc.start()
    splits, labels = _read_splits(tmp_path / "split.csv", problems), _read_labels(tmp_path / "labels.csv", problems)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(splits), splits.size_bytes, len(labels), labels.size_bytes) == (count, 9 * count, count, 22 * count)
    assert held < 40 * count
    assert peak < 100 * count


# ---------------------------------------------------------------- what is named


@pytest.mark.parametrize("kind", ["metadata", "split", "chexpert"])
def test_missing_table_is_named(make: Maker, kind: str) -> None:
    folder = make()
    (folder / f"mimic-cxr-2.0.0-{kind}.csv").unlink()
    with pytest.raises(DatasetError, match=rf"mimic-cxr-2\.0\.0-{kind}\.csv is missing"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"subject_id": ""}, "columns subject_id and study_id must be numbers"),
        ({"study_id": "../1"}, "columns subject_id and study_id must be numbers"),
        ({"dicom_id": "a/../b"}, "column dicom_id must be letters, digits and '-'"),
        ({"dicom_id": "unheard-of"}, r"mimic-cxr-2\.0\.0-split\.csv has no such film"),
    ],
)
def test_bad_value_is_named_by_line(make: Maker, change: dict[str, str], rule: str) -> None:
    folder = make()
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv", METADATA, [*FILMS, FILMS[0] | change])
    with pytest.raises(DatasetError, match=rf"metadata\.csv, line 7: .*{rule}"):
        read(folder)


def test_problems_of_all_tables_are_told_together(make: Maker) -> None:
    folder = make()
    write_table(folder / "mimic-cxr-2.0.0-chexpert.csv", LABELLED, [*STUDIES, {"study_id": "", "Edema": "2.0"}])
    write_table(folder / "mimic-cxr-2.0.0-split.csv", SPLIT, [*FILMS, {"dicom_id": "x", "split": "trian"}])
    (folder / path_of(FILMS[2])).unlink()
    with pytest.raises(DatasetError) as refusal:
        read(folder)
    assert str(refusal.value).splitlines() == [
        "3 rows or films cannot be used:",
        "mimic-cxr-2.0.0-split.csv, line 7: column split must be train, validate or test",
        "mimic-cxr-2.0.0-chexpert.csv, line 4: column Edema must be 1.0, 0.0, -1.0 or blank; column study_id must not be blank",
        "mimic-cxr-2.0.0-metadata.csv, line 4: the image 2a2277a9-b0ded155.jpg is missing from the data set's folder",
    ]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (MAX_REPORT_BYTES + 1)], ids=["bytes", "long"])
def test_unreadable_report_is_named(make: Maker, content: bytes) -> None:
    folder = make()
    (folder / "files/p10/p10000032/s50414267.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=r"line 2: the study's report is not text in UTF-8"):
        read(folder, reports=folder)


def test_link_out_of_the_folder_is_forbidden(make: Maker, tmp_path: Path) -> None:
    folder = make()
    image = folder / path_of(FILMS[0])
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(ForbiddenError, match="lies outside"):
        read(folder)


def test_folder_without_films_of_the_view_is_refused(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"metadata\.csv names no film of the views asked for \(lateral\)"):
        read(make(FILMS[:1]), views=["lateral"])
