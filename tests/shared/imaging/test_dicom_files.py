"""DICOM files are told by their mark, and expected by their names."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from shared.imaging.dicom_files import is_called_dicom, says_dicom


@pytest.mark.parametrize(
    ("content", "says"), [(bytes(128) + b"DICM" + b"x", True), (bytes(128) + b"DICOM", False), (b"DICM", False), (b"", False)]
)
def test_mark_is_read_and_the_file_begins_anew(content: bytes, says: bool) -> None:
    file = io.BytesIO(content)
    assert says_dicom(file) is says
    assert file.read() == content


@pytest.mark.parametrize(("name", "called"), [("a.dcm", True), ("a.DICOM", True), ("dcm", False), ("a.dcm.png", False)])
def test_name_may_promise_dicom(name: str, called: bool) -> None:
    assert is_called_dicom(Path(name)) is called
