"""Folders as hospitals have them, registered from end to end: what is committed, and that damage commits nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.registration import register
from shared.catalog import Catalog, DatasetManifest, new_id
from shared.errors import DatasetError
from shared.imaging.clauses import LABELS
from shared.imaging.films import FilmTable
from shared.imaging.png import decode_png
from shared.settings import Settings
from shared.storage import DirectoryStore
from tests.shared.imaging.radiographs import radiograph, ramp, save

PATIENTS = 8


class Hospital:
    """A home with one import root."""

    def __init__(self, home: Path) -> None:
        self.data = home / "imports"
        self.data.mkdir()
        self.settings = Settings(home=home, import_roots=str(self.data))
        self.catalog = Catalog(DirectoryStore(home / "store"), home / "cache")

    def register(self, source: dict[str, Any], **changes: Any) -> DatasetManifest:
        spec = {"name": "ward", "source": source | {"uri": f"file://{self.data}"}, "image_size": 32, "control_fraction": 0.25} | changes
        return register(
            DatasetSpec.model_validate(spec),
            dataset_id=new_id("dataset"),
            catalog=self.catalog,
            settings=self.settings,
            report=lambda _step, _total, _message, **_values: None,
        )

    def films(self, manifest: DatasetManifest) -> list[Any]:
        return list(FilmTable(self.catalog.fetch(manifest)))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_dicom_archive_becomes_a_data_set_without_identifiers(hospital: Hospital) -> None:
    for n in range(PATIENTS):
        pixels = np.roll(ramp(), 3 * n, axis=1)
        save(radiograph(pixels, PatientID=f"MRN-{n}", PatientName=f"Doe^{n}", PatientAge=f"05{n}Y"), hospital.data / f"{n}" / "image")
    manifest = hospital.register({"format": "dicom"}, prompt={"template": "demographics", "age": "decade"})
    films = hospital.films(manifest)
    assert manifest.counts == {"train": 6, "control": 2}
    assert {film.prompt for film in films} == {"chest X-ray, PA, woman aged 50-59"}
    assert len({film.patient for film in films}) == PATIENTS
    assert np.array_equal(decode_png(films[0].png, max_pixels=10_000), np.rint(ramp() / 4095 * 255))
    committed = manifest.model_dump_json() + repr(films)
    assert not [word for word in ("MRN", "Doe") if word in committed]


def test_image_folder_of_sixteen_bits_becomes_a_data_set(hospital: Hospital) -> None:
    with (hospital.data / "metadata.jsonl").open("w") as table:
        for n in range(PATIENTS):
            Image.fromarray(np.roll(ramp(), n, axis=1) + 100).save(hospital.data / f"{n}.png")
            table.write(json.dumps({"file_name": f"{n}.png", "patient_id": n // 2, "text": f"film {n} of ___, 1.5 cm"}) + "\n")
    manifest = hospital.register({"format": "imagefolder"}, prompt={"template": "text", "scrub": True})
    films = hospital.films(manifest)
    assert sorted(film.prompt for film in films) == [f"film {n}, 1.5 cm" for n in range(PATIENTS)]
    assert manifest.patients == {"train": 2, "control": 2}
    assert {decode_png(film.png, max_pixels=10_000).max() for film in films} == {255}


def test_mimic_folder_becomes_a_data_set_of_its_impressions(hospital: Hospital) -> None:
    tables: dict[str, list[dict[str, str]]] = {"metadata": [], "split": [], "chexpert": []}
    for n in range(PATIENTS):
        ids = {"dicom_id": f"film-{n}", "subject_id": f"1000{n}", "study_id": f"5000{n}"}
        study = hospital.data / f"files/p10/p1000{n}/s5000{n}"
        study.mkdir(parents=True)
        Image.fromarray(np.full((40, 40), 20 * n, dtype=np.uint8)).save(study / f"film-{n}.jpg")
        study.with_suffix(".txt").write_text(f"FINDINGS: ___.\n\nIMPRESSION:\n\nEdema of grade {n}, compared to ___.")
        tables["metadata"].append(ids | {"ViewPosition": "AP"})
        tables["split"].append(ids | {"split": "train" if n else "test"})
        tables["chexpert"].append(ids | dict.fromkeys(LABELS, "") | {"Edema": "1.0"})
    for kind, rows in tables.items():
        with (hospital.data / f"mimic-cxr-2.0.0-{kind}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    manifest = hospital.register({"format": "mimic-cxr-jpg", "splits": ["train"]}, prompt={"template": "impression", "scrub": True})
    films = hospital.films(manifest)
    assert [film.prompt for film in films] == [f"Edema of grade {n}, compared." for n in range(1, PATIENTS)]
    assert {film.labels["Edema"] for film in films} == {1}


def test_damaged_files_are_told_and_commit_nothing(hospital: Hospital) -> None:
    for n in range(PATIENTS):
        path = save(radiograph(PatientID=f"MRN-{n}"), hospital.data / f"{n}.dcm")
        if n in {2, 5}:
            path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DatasetError) as refusal:
        hospital.register({"format": "dicom"})
    assert str(refusal.value).splitlines()[1:] == ["2.dcm is not a readable DICOM picture", "5.dcm is not a readable DICOM picture"]
    save(radiograph(PatientID=None), hospital.data / "8.dcm")
    with pytest.raises(DatasetError, match=r"^8\.dcm: it has no PatientID$"):
        hospital.register({"format": "dicom"})
    assert hospital.catalog.list("dataset", 10)[0] == []
