"""Reads folders of DICOM files: single radiographs (CR and DX), described by their headers alone.

Identifiers of patients are turned into pseudonyms by a keyed digest and kept nowhere else; texts of a header are not read at all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
)

from shared.errors import DatasetError
from shared.imaging.cells import MAX_AGE, projections_of, view_of
from shared.imaging.clauses import LABELS
from shared.imaging.dicom_files import is_called_dicom, says_dicom
from shared.imaging.dicom_pixels import DICOM_ERRORS, TRANSFER_SYNTAXES, quieten
from shared.imaging.source_folder import SourceFolder
from shared.imaging.sources import MAX_SOURCE_PIXELS, RowProblems, SourceFilm, View, sound_films

RADIOGRAPHS: Final = frozenset(
    {ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, DigitalXRayImageStorageForProcessing}
)
MAX_FILE_BYTES: Final = 512_000_000  # the largest radiographs have some forty million
_KEYWORDS: Final = (
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    "BitsAllocated",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BurnedInAnnotation",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
    "StudyInstanceUID",
    "ViewPosition",
    "ViewCodeSequence",
)
_PIXEL_DATA: Final = 0x7FE00010
_FIRST_PIXELS: Final = 0x7FE00000  # pixels of other kinds come before; nothing behind is looked at
_GREYS: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_DATE: Final = re.compile(r"\d{8}")
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_UNITS_A_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_MEANINGS: Final = {"postero-anterior": "PA", "antero-posterior": "AP"}


@dataclass(frozen=True)
class Header:
    """The attributes of a file that are looked at, and whether pixels follow them."""

    dataset: Dataset
    has_pixels: bool
    size_bytes: int


class DicomFolder:
    """The films of all DICOM files below a folder whose view is asked for, in the order of their paths."""

    def __init__(
        self, folder: Path, *, views: Sequence[View], key: bytes, allow_burned_in: bool = False, roots: Sequence[Path] = ()
    ) -> None:
        """`key` makes the patients' pseudonyms; files must lie within `roots` (the folder itself, without any), symlinks followed."""
        self._folder = SourceFolder(folder, roots)
        self._views = views
        self._key = key
        self._allow_burned_in = allow_burned_in

    def fingerprint(self) -> str:
        """SHA-256 over the paths and sizes of all files."""
        digest = hashlib.sha256()
        for name in self._names():
            digest.update(f"{name}\0{(self._folder.path / name).stat().st_size}\n".encode())
        return digest.hexdigest()

    def films(self) -> Iterator[SourceFilm]:
        """Read header after header; files that are no DICOM are passed over, unless they are called so."""
        yield from sound_films(self._names(), self._film, RowProblems(), table="the folder", views=self._views)

    def _names(self) -> Iterator[str]:
        """The paths of all files below the folder, sorted within each folder."""
        for parent, folders, names in os.walk(self._folder.path):
            folders.sort()
            for name in sorted(names):
                yield (Path(parent) / name).relative_to(self._folder.path).as_posix()

    def _film(self, name: str) -> SourceFilm | None:
        """The film of a file; None when it shows another view, or is none."""
        path = self._folder.inside(self._folder.path / name, name)
        if not is_called_dicom(path):
            with path.open("rb") as file:
                if not says_dicom(file):
                    return None
        try:
            header = read_header(path)
            return None if header is None else self._described(header, name, path)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}") from None
        except DICOM_ERRORS:
            raise DatasetError(f"{name}: not a readable DICOM file") from None  # the cause may quote the header

    def _described(self, header: Header, name: str, path: Path) -> SourceFilm | None:
        dataset = header.dataset
        faults = faults_of(header, allow_burned_in=self._allow_burned_in)
        patient = str(dataset.get("PatientID") or "").strip()
        if not patient:
            faults.append("it has no PatientID")
        if faults:
            raise DatasetError("; ".join(faults))
        view = _view(dataset)
        if projections_of(view).isdisjoint(self._views):
            return None
        return SourceFilm(
            line=0,
            key=name,
            path=path,
            patient=self._pseudonym("patient", patient),
            study=self._pseudonym("study", str(dataset.get("StudyInstanceUID") or "")),
            view=view,
            sex={"M": "Male", "F": "Female"}.get(str(dataset.get("PatientSex") or "").strip().upper(), "Unknown"),
            age=_age(dataset),
            labels=dict.fromkeys(LABELS),
            burned_in=_burned_in(dataset) == "YES",
        )

    def _pseudonym(self, kind: str, identifier: str) -> str:
        """The same for the same identifier, and not to be turned back without the key."""
        return f"{kind}-{hmac.digest(self._key, f'{kind}:{identifier}'.encode(), hashlib.sha256)[:8].hex()}"


# ---------------------------------------------------------------- headers


def read_header(path: Path) -> Header | None:
    """What is needed of a file's header; None for the directory of a medium.

    Raises one of DICOM_ERRORS, or DatasetError for a transfer syntax that is not read.
    """
    quieten()
    meta = read_file_meta_info(path)
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    syntax = UID(str(meta.get("TransferSyntaxUID") or ""))
    if syntax not in TRANSFER_SYNTAXES:
        raise DatasetError(f"the transfer syntax {syntax.name or 'that it lacks'} is not read")
    pixels: list[int] = []

    def at_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        """Stop there, and take note of their length."""
        if tag == _PIXEL_DATA:
            pixels.append(length)
        return int(tag) >= _FIRST_PIXELS

    with path.open("rb") as file:
        dataset = read_partial(file, at_pixels, specific_tags=[Tag(name) for name in _KEYWORDS])
    return Header(dataset, has_pixels=any(pixels), size_bytes=path.stat().st_size)


def refusals_of(path: Path) -> list[str]:
    """Why a DICOM file that a table names is not read; whose it is, the table says."""
    try:
        header = read_header(path)
        return ["it is the directory of a medium"] if header is None else faults_of(header, allow_burned_in=False)
    except DatasetError as error:
        return [str(error)]
    except DICOM_ERRORS:
        return ["not a readable DICOM file"]


def faults_of(header: Header, *, allow_burned_in: bool) -> list[str]:
    """Why a file is not read: what it is instead of a single grey radiograph without writing in it."""
    dataset = header.dataset
    kind = UID(str(dataset.get("SOPClassUID") or ""))
    capture = kind == SecondaryCaptureImageStorage
    burned_in = _burned_in(dataset)
    if kind not in RADIOGRAPHS and not capture:
        return [f"it is {kind.name or 'of no class'}; only CR and DX images are read"]
    if capture and burned_in != "NO" and not allow_burned_in:
        return ["it is Secondary Capture Image Storage and does not say that it has no annotation burned in"]
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    colours = str(dataset.get("PhotometricInterpretation") or "nothing")
    told = {
        "an annotation is burned in": burned_in == "YES" and not allow_burned_in,
        "it has no pixels": not (header.has_pixels and rows and columns),
        f"it has {frames} frames; single images are read": frames != 1,
        f"its pixels are {colours}; MONOCHROME1 and MONOCHROME2 are read": not (samples == 1 and colours in _GREYS),
        f"it has {columns}x{rows} pixels, the limit is {MAX_SOURCE_PIXELS} in all": rows * columns > MAX_SOURCE_PIXELS,
        f"it has {header.size_bytes} bytes, the limit is {MAX_FILE_BYTES}": header.size_bytes > MAX_FILE_BYTES,
    }
    return [fault for fault, holds in told.items() if holds]


def _burned_in(dataset: Dataset) -> str:
    """YES, NO, or nothing."""
    return str(dataset.get("BurnedInAnnotation") or "").strip().upper()


def _view(dataset: Dataset) -> str:
    """The projection, from its own attribute or from the view's code."""
    stated = str(dataset.get("ViewPosition") or "")
    codes = dataset.get("ViewCodeSequence")
    if stated or not codes:
        return view_of(stated)
    meaning = str(codes[0].get("CodeMeaning") or "").strip().lower()
    return view_of(_MEANINGS.get(meaning, "LATERAL" if "lateral" in meaning else ""))


def _age(dataset: Dataset) -> int | None:
    """Whole years, as stated or from birth to study; None where neither is."""
    match = _AGE.fullmatch(str(dataset.get("PatientAge") or "").strip().upper())
    if match:
        years = int(int(match[1]) / _UNITS_A_YEAR[match[2]])
    else:
        born, taken = (str(dataset.get(name) or "") for name in ("PatientBirthDate", "StudyDate"))
        if not (_DATE.fullmatch(born) and _DATE.fullmatch(taken)):
            return None
        years = (int(taken) - int(born)) // 10_000
    return years if 0 <= years <= MAX_AGE else None
