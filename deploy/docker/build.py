"""Build the images of the services and of the command line from the wheelhouse, without any network, and write what they hold to dist/.

It needs Docker and any Python 3.9, so that it runs where nothing else of Lethe is installed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = "deploy/docker/Dockerfile"
# The targets of the Dockerfile; all but the first are services.
TARGETS = ("lethe", "trainer", "sampler", "detector", "mitigator")
SBOM = "/opt/lethe/application/sbom.cdx.json"


def main() -> None:
    """Build every target of one variant, name it, and take its bill of materials out of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=("cpu", "cuda"), help="which build of torch")
    parser.add_argument("--extras", default="", help="optional parts of Lethe, parted by ',', that the wheelhouse was fetched with")
    parser.add_argument("--docker", default="docker", help="the Docker command with its options")
    parser.add_argument("--base-image", default="", help="what to build on instead of the base image that the Dockerfile pins")
    parser.add_argument("--prefix", default="", help="registry and path before the images' names, with a slash at the end")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the bill of materials")
    arguments = parser.parse_args()
    docker = shlex.split(arguments.docker)
    wheelhouse = wheelhouse_name(arguments.variant, arguments.extras)
    for target in TARGETS:
        build(docker, target, wheelhouse, variant=arguments.variant, base_image=arguments.base_image, prefix=arguments.prefix)
    write_sbom(docker, image_name("lethe", arguments.variant, arguments.prefix), arguments.output / f"lethe-{arguments.variant}.cdx.json")


def wheelhouse_name(variant: str, extras: str) -> str:
    """What deploy/docker/wheelhouse.py calls the folder of a variant with optional parts, given as 'ray,otel'."""
    return "-".join([variant, *sorted({extra for extra in extras.split(",") if extra})])


def build(docker: list[str], target: str, wheelhouse: str, *, variant: str, base_image: str, prefix: str) -> None:
    """Build one image; all but the first of a variant find every layer there."""
    values = {"WHEELHOUSE": wheelhouse, "VERSION": version(), "REVISION": revision()}
    if base_image:
        values["BASE_IMAGE"] = base_image
    given = [argument for name, value in values.items() for argument in ("--build-arg", f"{name}={value}")]
    name = image_name(target, variant, prefix)
    subprocess.run(
        [*docker, "build", "--network", "none", "--target", target, "--file", DOCKERFILE, *given, "--tag", name, "."], cwd=ROOT, check=True
    )


def image_name(target: str, variant: str, prefix: str = "") -> str:
    """What compose.yaml and the manifests of Kubernetes call an image."""
    name = target if target == "lethe" else f"lethe-{target}"
    return f"{prefix}{name}:{version()}-{variant}"


def write_sbom(docker: list[str], image: str, path: Path) -> None:
    """Take the bill of materials out of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        subprocess.run([*docker, "run", "--rm", "--network", "none", image, "cat", SBOM], stdout=file, check=True)


def version() -> str:
    """The version of Lethe in this tree."""
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml states no version.")
    return found[1]


def revision() -> str:
    """The commit of this tree, where it is a clone, with `-dirty` where files differ from it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    command = [git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
