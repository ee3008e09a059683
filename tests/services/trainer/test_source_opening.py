"""Which folders are read, and that every format finds its reader."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.source_opening import open_source, source_folder
from shared.errors import DatasetError, ForbiddenError, InvalidRequestError
from shared.imaging.clauses import LABELS
from shared.imaging.sources import SourceFilm
from shared.settings import Settings
from tests.shared.imaging.radiographs import radiograph, save

PHANTOM: dict[str, Any] = {"name": "phantom", "source": {"format": "phantom", "patients": 4}, "image_size": 16}


class House:
    """A home with an import root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "imports"
        self.data.mkdir()
        self.settings = Settings(home=home, import_roots=str(self.data))

    def films(self, spec: DatasetSpec) -> list[SourceFilm]:
        return list(open_source(spec, self.settings, lambda _step, _total, _message: None).films())


def write_table(path: Path, row: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def spec_of(source: dict[str, Any], **changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(PHANTOM | {"source": source} | changes)


def test_phantom_is_drawn_and_read_with_its_reports(house: House) -> None:
    drawn = []
    source = open_source(
        DatasetSpec.model_validate(PHANTOM), house.settings, lambda step, total, message: drawn.append((step, total, message))
    )
    films = list(source.films())
    assert {film.patient for film in films} < {f"patient{n:05}" for n in range(1, 5)}, "one has no frontal film"
    assert all(film.impression for film in films)
    assert drawn[-1] == (drawn[-1][1], drawn[-1][1], "drawing films")


@pytest.mark.parametrize("template", ["findings", "impression", "report"])
def test_mimic_folder_is_read_with_reports_where_prompts_need_them(house: House, template: str) -> None:
    film = {"dicom_id": "a-b", "subject_id": "10000032", "study_id": "50414267"}
    write_table(house.data / "mimic-cxr-2.0.0-metadata.csv", film | {"ViewPosition": "PA"})
    write_table(house.data / "mimic-cxr-2.0.0-split.csv", film | {"split": "test"})
    write_table(house.data / "mimic-cxr-2.0.0-negbio.csv", film | dict.fromkeys(LABELS, "") | {"Edema": "1.0"})
    study = house.data / "files/p10/p10000032/s50414267"
    study.mkdir(parents=True)
    (study / "a-b.jpg").write_bytes(b"not read here")
    (house.data / "texts/files/p10/p10000032").mkdir(parents=True)
    (house.data / "texts/files/p10/p10000032/s50414267.txt").write_text("FINDINGS: Edema.\nIMPRESSION: Worse.")
    source = {"format": "mimic-cxr-jpg", "labels": "negbio", "splits": ["test"]}
    source |= {"uri": f"file://{house.data}", "reports_uri": f"file://{house.data}/texts"}
    (found,) = house.films(spec_of(source, prompt={"template": template}))
    assert (found.patient, found.labels["Edema"]) == ("p10000032", 1)
    assert (found.impression, found.report) == ((None, None) if template == "findings" else ("Worse.", "Edema. Worse."))


def test_image_folder_is_read(house: House) -> None:
    write_table(house.data / "films.csv", {"file_name": "1.png", "patient_id": "p", "text": "a film"})
    (house.data / "1.png").write_bytes(b"not read here")
    (found,) = house.films(spec_of({"format": "imagefolder", "uri": f"file://{house.data}", "metadata": "films.csv"}))
    assert (found.patient, found.text) == ("p", "a film")


def test_dicom_folder_is_read_under_pseudonyms_of_the_installation(house: House, tmp_path_factory: pytest.TempPathFactory) -> None:
    save(radiograph(BurnedInAnnotation="YES"), house.data / "film")
    spec = spec_of({"format": "dicom", "uri": f"file://{house.data}", "allow_burned_in": True})
    (found,) = house.films(spec)
    assert house.films(spec) == [found]
    other = Settings(home=tmp_path_factory.mktemp("home"), import_roots=str(house.data))
    (elsewhere,) = open_source(spec, other, lambda _step, _total, _message: None).films()
    assert found.patient != elsewhere.patient
    with pytest.raises(DatasetError, match="an annotation is burned in"):
        house.films(spec_of({"format": "dicom", "uri": f"file://{house.data}"}))


@pytest.mark.parametrize(
    "uri", ["file:///etc", "file://{data}/../secret", "file://{data}/link", "file://{data}%2F..%2Fsecret", "file://{data}x"]
)
def test_folder_outside_the_import_roots_is_forbidden(house: House, uri: str) -> None:
    (house.home / "secret").mkdir()
    (house.data / "link").symlink_to(house.home / "secret")
    for source in ({"format": "chexpert"}, {"format": "phantom"}, {"format": "mimic-cxr-jpg"}, {"format": "dicom"}):
        spec = PHANTOM | {"source": source | {"uri": uri.format(data=house.data)}}
        with pytest.raises(ForbiddenError, match="LETHE_IMPORT_ROOTS"):
            source_folder(DatasetSpec.model_validate(spec), house.settings)


def test_reports_outside_the_import_roots_are_forbidden(house: House) -> None:
    source = {"format": "mimic-cxr-jpg", "uri": f"file://{house.data}", "reports_uri": "file:///etc"}
    with pytest.raises(ForbiddenError, match=r"source\.reports_uri lies outside"):
        source_folder(spec_of(source), house.settings)


def test_no_import_root_allows_no_folder(house: House) -> None:
    spec = spec_of({"format": "chexpert", "uri": f"file://{house.data}"})
    with pytest.raises(ForbiddenError):
        source_folder(spec, Settings(home=house.home))


@pytest.mark.parametrize(
    "uri", ["/data", "s3://bucket/x", "file://host/data", "file:data", "file:///a%00b", "http://localhost/data", "file://[x/data"]
)
def test_other_uri_is_refused(house: House, uri: str) -> None:
    spec = DatasetSpec.model_validate(PHANTOM | {"source": {"format": "chexpert", "uri": uri}})
    with pytest.raises(InvalidRequestError, match=r"source\.uri must be file://"):
        source_folder(spec, house.settings)
