"""Resolve every requirement once, for all platforms, and write it with hashes in three files that two builds of torch can share.

The registry's Linux wheel of torch needs CUDA companions; the CPU build, which some machines offer beside the registry, must not have
them. Hence torch.txt (torch alone, hashes of both builds), torch-cuda.txt (the companions) and lock.txt (all the rest).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

# sha256 of torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl, which no registry listing tells. Change it with the version.
CPU_WHEEL = {"2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}

COMPANION = re.compile(r"nvidia-|cuda-|triton\b")
VERSION = re.compile(r"torch==([^\s;]+)")


def resolve() -> list[str]:
    """The whole resolution, one pinned package with its markers and hashes per entry."""
    sources = ["pyproject.toml", "requirements/dev.in"]
    options = [
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--no-emit-index-url",
        "--quiet",
    ]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, *sources]
    output = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout
    return re.findall(r"^[^\s#].*?(?=^[^\s#]|\Z)", output, flags=re.MULTILINE | re.DOTALL)


def with_cpu_wheel(entry: str) -> str:
    """Torch's entry, which also accepts the CPU build of the same version."""
    found = VERSION.match(entry)
    if found is None or found[1] not in CPU_WHEEL:
        message = f"the resolution has {entry.splitlines()[0]!r}; state the CPU build's hash of that version in CPU_WHEEL"
        raise ValueError(message)
    return f"{entry.rstrip()} \\\n    --hash=sha256:{CPU_WHEEL[found[1]]}\n"


def main() -> None:
    """Write the three files."""
    entries = resolve()
    torch = [with_cpu_wheel(entry) for entry in entries if entry.startswith("torch==")]
    companions = [entry for entry in entries if COMPANION.match(entry)]
    rest = [entry for entry in entries if not entry.startswith("torch==") and not COMPANION.match(entry)]
    for name, chosen in (("torch.txt", torch), ("torch-cuda.txt", companions), ("lock.txt", rest)):
        (HERE / name).write_text("# Written by `make lock`; edit pyproject.toml or dev.in instead.\n" + "".join(chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
