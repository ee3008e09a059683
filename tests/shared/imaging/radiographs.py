"""DICOM radiographs for tests, written by pydicom and packed by GDCM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian


def ramp(rows: int = 32, columns: int = 32, *, highest: int = 4095) -> NDArray[np.uint16]:
    """Values from 0 to `highest`, rising from left to right."""
    return np.tile(np.linspace(0, highest, columns).round().astype(np.uint16), (rows, 1))


def radiograph(pixels_HW: NDArray[Any] | None = None, **attributes: Any) -> FileDataset:
    """A sound CR image of 12 bits; attributes of None are left out."""
    pixels_HW = ramp() if pixels_HW is None else pixels_HW
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    defaults: dict[str, Any] = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": UID("1.2.3.4"),
        "Modality": "CR",
        "PatientID": "MRN-4711",
        "PatientName": "Doe^Jane",
        "PatientSex": "F",
        "PatientAge": "057Y",
        "StudyInstanceUID": UID("1.2.3"),
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels_HW.shape[0],
        "Columns": pixels_HW.shape[1],
        "BitsAllocated": 8 * pixels_HW.dtype.itemsize,
        "BitsStored": 12 if pixels_HW.dtype.itemsize == 2 else 8,
        "HighBit": 11 if pixels_HW.dtype.itemsize == 2 else 7,
        "PixelRepresentation": 0,
        "PixelData": pixels_HW.tobytes(),
    }
    for name, value in (defaults | attributes).items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    """Write a file as archives do, with its preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def pack(path: Path, syntax: str) -> Path:
    """Write a file again in another transfer syntax, named as GDCM names it."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    if not reader.Read():
        raise ValueError("GDCM cannot read the file")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise ValueError(f"GDCM cannot pack as {syntax}")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise ValueError("GDCM cannot write the file")
    return path


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made
