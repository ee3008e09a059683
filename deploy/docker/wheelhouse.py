"""Fetch what the images are built from: the wheels that Lethe needs to run, with the hashes of the lock, for one build of torch.

The folder deploy/wheelhouse/{cpu|cuda}, or one of its own for optional parts (cuda-ray), then holds the wheels and a requirements.txt
that pip installs them by without any index.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
LOCKS: Final = ROOT / "requirements"
WHEELHOUSE: Final = ROOT / "deploy" / "wheelhouse"
REQUIREMENTS: Final = "requirements.txt"
# Where the CPU build is published; a local wheel that pip is configured to find does as well.
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"

# The image's platform: Debian 12 with its Python, whatever machine fetches the wheels.
PYTHON: Final = "3.11"
GLIBC_MINOR: Final = 36
PLATFORMS: Final = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
MARKERS: Final = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
}
# What builds Lethe's own wheel inside the image's build; no image keeps it for that.
BUILD_BACKEND: Final = "setuptools"


def main() -> None:
    """Fetch the wheels of one variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=("cpu", "cuda"), help="which build of torch")
    parser.add_argument("--extras", default="", help="optional parts of Lethe to include, parted by ','")
    arguments = parser.parse_args()
    extras = sorted({extra for extra in arguments.extras.split(",") if extra})
    # Named by what it holds, so that none takes another's place.
    folder = WHEELHOUSE / "-".join([arguments.variant, *extras])
    torch, rest = chosen_entries(arguments.variant, extras=extras)
    wanted, held = torch + "".join(rest), folder / REQUIREMENTS
    # The list is written last: where it is the same, every wheel is there.
    if not held.exists() or held.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fetch_torch(torch, folder, variant=arguments.variant)
        fetch(rest, folder)
        held.write_text(wanted, encoding="utf-8")
    sys.stdout.write(f"{len(list(folder.glob('*.whl')))} wheels in {folder.relative_to(ROOT)}\n")


def chosen_entries(variant: str, *, extras: Iterable[str] = ()) -> tuple[str, list[str]]:
    """Torch's locked entry, and those of all else that the image needs."""
    wanted = closure(declared(extras)) | {BUILD_BACKEND}
    torch = locked_entries(LOCKS / "torch.txt")["torch"]
    entries = locked_entries(LOCKS / "lock.txt")
    companions = locked_entries(LOCKS / "torch-cuda.txt") if variant == "cuda" else {}
    missing = sorted(wanted - {"torch"} - set(entries) - set(locked_entries(LOCKS / "torch-cuda.txt")))
    if missing:
        raise ValueError(f"requirements/lock.txt lacks {', '.join(missing)}; run make lock.")
    return torch, [*(entry for name, entry in entries.items() if name in wanted), *companions.values()]


def declared(extras: Iterable[str]) -> list[str]:
    """What pyproject.toml says that Lethe needs, with optional parts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def closure(requirements: Iterable[str]) -> set[str]:
    """What requirements come to on the image's platform, by what is installed here."""
    found: set[tuple[str, str]] = set()
    open_ends = applying(requirements, extra="")
    while open_ends:
        end = open_ends.pop()
        if end not in found:
            found.add(end)
            open_ends += applying(requires(end[0]) or [], extra=end[1])
    return {name for name, _ in found}


def applying(requirements: Iterable[str], *, extra: str) -> list[tuple[str, str]]:
    """Name and extra of each requirement that holds on the image's platform; every distribution also with no extra."""
    parsed = [Requirement(line) for line in requirements]
    holding = [one for one in parsed if one.marker is None or one.marker.evaluate(MARKERS | {"extra": extra})]
    return [(canonicalize_name(one.name), wanted) for one in holding for wanted in ("", *one.extras)]


def locked_entries(lock: Path) -> dict[str, str]:
    """The entries of a locked file, each with its hashes, by name; of several for one name those that hold on the image's platform."""
    entries = re.findall(r"^[^\s#].*?(?=^[^\s#]|\Z)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    parsed = [(Requirement(entry.split(" \\\n", maxsplit=1)[0]), entry) for entry in entries]
    return {canonicalize_name(one.name): entry for one, entry in parsed if one.marker is None or one.marker.evaluate(MARKERS)}


def fetch_torch(entry: str, folder: Path, *, variant: str) -> None:
    """Torch's wheel; its hash is checked by the build, since pip passes over a local wheel, whose link has none, when given hashes."""
    pinned = entry.split(" ", maxsplit=1)[0]
    # To '==' a local build of the same version would do as well, and pip would rather have it; '===' is the registry's and no other.
    download([f"{pinned}+cpu", "--extra-index-url", CPU_INDEX] if variant == "cpu" else [pinned.replace("==", "===")], folder)


def fetch(entries: list[str], folder: Path) -> None:
    """The wheels of locked entries, checked against their hashes."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write("".join(entries))
        requirements.flush()
        download(["--require-hashes", "--requirement", requirements.name], folder)


def download(what: list[str], folder: Path) -> None:
    """Have pip fetch wheels for the image's platform, without what they need."""
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *options, *what], check=True)


if __name__ == "__main__":
    main()
