"""The bill of materials names every distribution and package of an image once, with version, hash and licence where they are known."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.docker import sbom

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13
Description: GNU C Library
 with more lines

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def install(site_packages: Path, name: str, version: str, *lines: str) -> None:
    """Put a distribution's metadata where pip would."""
    folder = site_packages / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    folder.joinpath("METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines, "", ""]))


@pytest.fixture
def image(tmp_path: Path) -> list[Path]:
    """Site packages, wheelhouse and dpkg status of a small image."""
    site_packages, wheelhouse, status = tmp_path / "site-packages", tmp_path / "wheelhouse", tmp_path / "status"
    install(site_packages, "lethe", "0.1.0", "License-Expression: Apache-2.0")
    install(site_packages, "Some_Library", "1.2+cpu", "Classifier: License :: OSI Approved :: MIT License")
    install(site_packages, "other", "3", "License: a whole", " text of several", " lines")
    wheelhouse.mkdir()
    (wheelhouse / "some_library-1.2+cpu-py3-none-any.whl").write_bytes(b"a wheel")
    status.write_text(STATUS)
    return [site_packages, wheelhouse, status]


def test_every_part_is_named_once_with_what_is_known(image: list[Path]) -> None:
    document = sbom.document(*image)
    assert document["metadata"]["component"]["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    other, library, libc = document["components"]
    assert other == {"type": "library", "bom-ref": "pkg:pypi/other@3", "name": "other", "version": "3", "purl": "pkg:pypi/other@3"}
    assert library["purl"] == "pkg:pypi/some-library@1.2%2Bcpu"
    assert library["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"a wheel").hexdigest()}]
    assert library["licenses"] == [{"license": {"name": "MIT License"}}]
    assert libc["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64"


def test_script_writes_the_document_with_the_standard_library_alone(image: list[Path]) -> None:
    command = [sys.executable, "-I", "-S", sbom.__file__, *map(str, image)]
    written: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert written == sbom.document(*image)
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.5")
