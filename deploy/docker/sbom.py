"""List what an image holds as a CycloneDX 1.5 document: Python distributions with the hashes of their wheels, and Debian packages.

It runs inside the image's build with the standard library alone: sbom.py SITE_PACKAGES WHEELHOUSE DPKG_STATUS > sbom.cdx.json
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

APPLICATION: Final = "lethe"


def main() -> None:
    """Write the document of the image under construction to standard output."""
    site_packages, wheelhouse, status = map(Path, sys.argv[1:])
    json.dump(document(site_packages, wheelhouse, status), sys.stdout, indent=2)


def document(site_packages: Path, wheelhouse: Path, status: Path) -> dict[str, Any]:
    """The whole document; it holds no time and no random number, so that one build is like another."""
    hashes = wheel_hashes(wheelhouse)
    found = {normal(one.name): one for one in distributions(path=[str(site_packages)])}
    application = python_component(found.pop(APPLICATION), hashes, kind="application")
    libraries = [python_component(found[name], hashes, kind="library") for name in sorted(found)]
    packages = [debian_component(fields) for fields in debian_packages(status.read_text(encoding="utf-8"))]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": application},
        "components": [*libraries, *packages],
    }


def wheel_hashes(wheelhouse: Path) -> dict[tuple[str, str], str]:
    """SHA-256 of each wheel by normal name and version, as its file is called."""
    parts = {wheel: wheel.name.split("-") for wheel in wheelhouse.glob("*.whl")}
    return {(normal(name), version): hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel, (name, version, *_) in parts.items()}


def python_component(distribution: Distribution, hashes: dict[tuple[str, str], str], *, kind: str) -> dict[str, Any]:
    """One installed distribution."""
    name = normal(distribution.name)
    purl = f"pkg:pypi/{name}@{quote(distribution.version)}"
    component: dict[str, Any] = {"type": kind, "bom-ref": purl, "name": name, "version": distribution.version, "purl": purl}
    if digest := hashes.get((name, distribution.version)):
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    if licence := licence_of(distribution):
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def licence_of(distribution: Distribution) -> str | None:
    """The licence as the distribution's metadata tells it: an expression, a classifier, or one short line."""
    metadata = distribution.metadata
    if expressions := metadata.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")]
    if classifiers:
        return " AND ".join(classifiers)
    line = str((metadata.get_all("License") or [""])[0]).strip()
    # Some distributions put the whole text there.
    return line if line and "\n" not in line else None


def debian_packages(status: str) -> list[dict[str, str]]:
    """The installed packages of dpkg's status file."""
    paragraphs = [dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, flags=re.MULTILINE)) for paragraph in status.split("\n\n")]
    return [fields for fields in paragraphs if fields.get("Status") == "install ok installed"]


def debian_component(fields: dict[str, str]) -> dict[str, Any]:
    """One Debian package."""
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
