"""Reading folders of DICOM files: what headers say of films, whose identifiers they keep to themselves, and what is refused by name."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from shared.errors import DatasetError, ForbiddenError
from shared.imaging import dicom
from shared.imaging.clauses import LABELS
from shared.imaging.dicom import DicomFolder
from shared.imaging.pixels import read_picture
from shared.imaging.sources import SourceFilm
from tests.shared.imaging.radiographs import item, radiograph, save

KEY = b"key of a test"


def read(folder: Path, **options: Any) -> list[SourceFilm]:
    return list(DicomFolder(folder, **({"views": ["frontal", "lateral", "other"], "key": KEY} | options)).films())


def film(tmp_path: Path, **attributes: Any) -> SourceFilm:
    """The one film of a folder."""
    save(radiograph(**attributes), tmp_path / "set" / "film")
    (found,) = read(tmp_path / "set")
    return found


# ---------------------------------------------------------------- what is fine


def test_radiographs_that_pydicom_ships_are_read(tmp_path: Path) -> None:
    shipped = Path(str(get_testdata_file("DICOMDIR", download=False))).parent / "77654033"
    for name in ("CR1", "CR2", "CR3"):
        shutil.copytree(shipped / name, tmp_path / "set" / name)
    shutil.copy(shipped.parent / "DICOMDIR", tmp_path / "set")
    (tmp_path / "set" / "README").write_text("no film")
    films = read(tmp_path / "set")
    assert [(found.key, found.view, found.age, found.line) for found in films] == [
        ("CR1/6154", "lateral", 47, 0),
        ("CR2/6247", "AP", 47, 0),
        ("CR3/6278", "AP", 47, 0),
    ]
    assert len({found.patient for found in films}) == len({found.study for found in films}) == 1
    assert all(read_picture(found, 16).std() > 1 for found in films)


def test_header_describes_the_film(tmp_path: Path) -> None:
    found = film(tmp_path, SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX")
    assert (found.key, found.view, found.sex, found.age) == ("film", "PA", "Female", 57)
    assert (set(found.labels), set(found.labels.values())) == (set(LABELS), {None})
    assert (found.impression, found.report, found.text) == (None, None, None)


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "003W"}, 0),
        ({"PatientAge": "800D"}, 2),
        ({"PatientAge": "095Y"}, 95),
        ({"PatientAge": None}, None),
        ({"PatientAge": None, "PatientBirthDate": "19700615", "StudyDate": "20200614"}, 49),
        ({"PatientAge": None, "PatientBirthDate": "19700615", "StudyDate": "20200615"}, 50),
        ({"PatientAge": None, "PatientBirthDate": "20200101", "StudyDate": "19990101"}, None),
    ],
)
def test_age_is_whole_years(tmp_path: Path, attributes: dict[str, Any], age: int | None) -> None:
    assert film(tmp_path, **attributes).age == age


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": None}, "unknown"),
        ({"ViewPosition": None, "ViewCodeSequence": [item(CodeMeaning="postero-anterior")]}, "PA"),
        ({"ViewPosition": None, "ViewCodeSequence": [item(CodeMeaning="left lateral")]}, "lateral"),
    ],
)
def test_view_comes_from_its_attribute_or_code(tmp_path: Path, attributes: dict[str, Any], view: str) -> None:
    assert film(tmp_path, **attributes).view == view


def test_views_are_filtered(tmp_path: Path) -> None:
    for view in ("AP", "PA", "LL"):
        save(radiograph(ViewPosition=view), tmp_path / view)
    assert [found.key for found in read(tmp_path, views=["frontal"])] == ["AP", "PA"]
    assert [found.key for found in read(tmp_path, views=["lateral"])] == ["LL"]
    with pytest.raises(DatasetError, match="the folder names no film of the views asked for"):
        read(tmp_path, views=["other"])


@pytest.mark.parametrize("said", ["NO", "no"])
def test_secondary_capture_that_says_no_annotation_is_burned_in_is_read(tmp_path: Path, said: str) -> None:
    assert film(tmp_path, SOPClassUID=SecondaryCaptureImageStorage, BurnedInAnnotation=said).view == "PA"


@pytest.mark.parametrize(
    ("attributes", "told"),
    [({"BurnedInAnnotation": "YES"}, True), ({"SOPClassUID": SecondaryCaptureImageStorage}, False), ({}, False)],
    ids=["burned in", "not said", "none"],
)
def test_writing_may_be_allowed_and_is_told(tmp_path: Path, attributes: dict[str, Any], told: bool) -> None:
    save(radiograph(**attributes), tmp_path / "film")
    assert [found.burned_in for found in read(tmp_path, allow_burned_in=True)] == [told]


# ---------------------------------------------------------------- identifiers


def test_patients_are_pseudonyms_that_only_the_key_makes(tmp_path: Path) -> None:
    save(radiograph(PatientID="4711"), tmp_path / "a")
    save(radiograph(PatientID=" 4711 ", StudyInstanceUID="1.2.9"), tmp_path / "b")
    save(radiograph(PatientID="4712"), tmp_path / "c")
    first, same, other = read(tmp_path)
    assert first.patient == same.patient != other.patient
    assert first.study == other.study != same.study
    assert [found.patient for found in read(tmp_path)] == [first.patient, same.patient, other.patient]
    assert read(tmp_path, key=b"another")[0].patient != first.patient


def test_nothing_that_identifies_is_copied_or_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    identifying = {"PatientID": "MRN-4711", "PatientName": "Doe^Jane", "AccessionNumber": "ACC-99", "StudyInstanceUID": "1.2.33.44"}
    path = save(radiograph(**identifying, StudyDescription="Chest of Doe"), tmp_path / "film")
    with caplog.at_level(logging.DEBUG):
        told = repr(read(tmp_path))
        path.write_bytes(path.read_bytes().replace(b"057Y", b"Doe!").replace(b"CS\x02\x00PA", b"CS\x02\x00~A"))
        told += repr(read(tmp_path))
        path.write_bytes(path.read_bytes()[:400])
        with pytest.raises(DatasetError) as refusal:
            read(tmp_path)
    told += str(refusal.value) + caplog.text
    assert not [value for value in (*identifying.values(), "Doe") if value in told]
    assert refusal.value.__cause__ is None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"NumberOfFrames": 30}, "it has 30 frames; single images are read"),
        ({"PixelData": None}, "it has no pixels"),
        ({"PixelData": b""}, "it has no pixels"),
        ({"Rows": None}, "it has no pixels"),
        ({"Rows": 20_000, "Columns": 20_000}, "it has 20000x20000 pixels, the limit is 64000000 in all"),
        ({"SOPClassUID": UltrasoundImageStorage}, "it is Ultrasound Image Storage; only CR and DX images are read"),
        ({"SOPClassUID": UltrasoundMultiFrameImageStorage}, "it is Ultrasound Multi-frame Image Storage; only CR and DX images are read"),
        ({"SOPClassUID": CTImageStorage}, "it is CT Image Storage; only CR and DX images are read"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "it is Secondary Capture Image Storage and does not say"),
        (
            {"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "YES"},
            "it is Secondary Capture Image Storage and does not say",
        ),
        ({"BurnedInAnnotation": "YES"}, "an annotation is burned in"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "its pixels are RGB; MONOCHROME1 and MONOCHROME2 are read"),
        ({"PatientID": None}, "it has no PatientID"),
        ({"PatientID": " "}, "it has no PatientID"),
        ({"PatientID": None, "NumberOfFrames": 2}, "it has 2 frames; single images are read; it has no PatientID"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path: Path, attributes: dict[str, Any], fault: str) -> None:
    save(radiograph(), tmp_path / "a" / "sound.dcm")
    save(radiograph(**attributes), tmp_path / "b" / "odd.dcm")
    with pytest.raises(DatasetError, match=rf"^b/odd\.dcm: {fault}"):
        read(tmp_path)


def test_transfer_syntax_that_unpacks_unseen_is_refused(tmp_path: Path) -> None:
    dataset = radiograph()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(dataset, tmp_path / "film")
    with pytest.raises(DatasetError, match=r"^film: the transfer syntax Deflated Explicit VR Little Endian is not read"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no film", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 50])
def test_file_that_is_called_dicom_and_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    save(radiograph(), tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(content)
    with pytest.raises(DatasetError, match=r"^b\.dcm: (not a readable DICOM file|the transfer syntax that it lacks is not read)"):
        read(tmp_path)


def test_all_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    for number in range(30):
        save(radiograph(NumberOfFrames=2), tmp_path / f"{number:02}.dcm")
    with pytest.raises(DatasetError) as refusal:
        read(tmp_path)
    lines = str(refusal.value).splitlines()
    assert (lines[0], lines[1][:7], lines[-1]) == ("30 rows or films cannot be used:", "00.dcm:", "and 10 more")


def test_large_file_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(radiograph(), tmp_path / "film")
    monkeypatch.setattr(dicom, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DatasetError, match=f"^film: it has {path.stat().st_size} bytes, the limit is 1000"):
        read(tmp_path)


def test_link_out_of_the_folder_is_forbidden(tmp_path: Path) -> None:
    save(radiograph(), tmp_path / "secret")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "film.dcm").symlink_to(tmp_path / "secret")
    with pytest.raises(ForbiddenError, match=r"film\.dcm lies outside"):
        read(tmp_path / "set")
    assert len(read(tmp_path / "set", roots=[tmp_path])) == 1


def test_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    save(radiograph(), tmp_path / "film")
    before = DicomFolder(tmp_path, views=["frontal"], key=KEY).fingerprint()
    save(radiograph(), tmp_path / "film")
    assert DicomFolder(tmp_path, views=["frontal"], key=KEY).fingerprint() == before
    save(radiograph(), tmp_path / "another")
    assert DicomFolder(tmp_path, views=["frontal"], key=KEY).fingerprint() != before


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(132, 2000), st.integers(0, 255)), min_size=1, max_size=8), end=st.integers(132, 4000))
def test_damaged_file_is_read_or_named_and_nothing_else(tmp_path: Path, changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(save(radiograph(WindowCenter=2000, WindowWidth=1000), tmp_path / "film.dcm").read_bytes())
    for place, value in changes:
        data[place] = value
    (tmp_path / "film.dcm").write_bytes(data[:end])
    with contextlib.suppress(DatasetError):
        assert [read_picture(found, 16).shape for found in read(tmp_path)] == [(16, 16)]
