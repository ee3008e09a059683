"""Images are built for every target without a network, under the names that compose.yaml uses, and their contents are written down."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest

from deploy.docker import build
from shared.telemetry.revision import WRITTEN, lethe_revision

ROOT = Path(__file__).parents[2]
# Stands for Docker: notes what it is asked, and answers with a document when it is to run something.
DOCKER = """\
import json, pathlib, sys
with pathlib.Path(sys.argv[1]).open("a") as notes:
    notes.write(json.dumps(sys.argv[2:]) + "\\n")
if sys.argv[2] == "run":
    print('{"bomFormat": "CycloneDX"}')
"""


def test_every_target_is_built_offline_and_the_contents_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker.py").write_text(DOCKER)
    docker = f"{sys.executable} {tmp_path / 'docker.py'} {tmp_path / 'notes'}"
    options = ["--docker", docker, "--base-image", "mirror/python@sha256:aa", "--prefix", "mirror/", "--output", str(tmp_path / "dist")]
    monkeypatch.setattr(sys, "argv", ["build.py", "cuda", "--extras", "ray,otel", *options])
    monkeypatch.setattr(build, "revision", lambda: "abc-dirty")
    build.main()
    *builds, last = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert [command[command.index("--target") + 1] for command in builds] == list(build.TARGETS)
    for command in builds:
        assert command[command.index("--network") + 1] == "none"
        assert {
            "WHEELHOUSE=cuda-otel-ray",
            "BASE_IMAGE=mirror/python@sha256:aa",
            f"VERSION={build.version()}",
            "REVISION=abc-dirty",
        } <= set(command)
    assert [command[command.index("--tag") + 1] for command in builds][1] == f"mirror/lethe-trainer:{build.version()}-cuda"
    assert last[-3:] == [f"mirror/lethe:{build.version()}-cuda", "cat", build.SBOM]
    assert json.loads((tmp_path / "dist" / "lethe-cuda.cdx.json").read_text()) == {"bomFormat": "CycloneDX"}


def test_revision_is_the_one_that_services_of_this_checkout_tell() -> None:
    lethe_revision.cache_clear()
    assert build.revision() == lethe_revision()


def test_commit_of_a_folder_above_is_not_taken_for_this_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "commit", "--quiet", "--allow-empty", "--message", "One"], cwd=tmp_path, check=True)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", build.revision())
    monkeypatch.setattr(build, "ROOT", tmp_path / "unpacked")
    assert build.revision() == "unknown"


def test_image_says_its_revision_where_services_look_for_it() -> None:
    text = (ROOT / build.DOCKERFILE).read_text(encoding="utf-8")
    place = f"/opt/lethe/application/{WRITTEN.relative_to(ROOT)}"
    assert f"""RUN printf '%s' "${{REVISION}}" > {place}""" in text


def test_version_is_that_of_the_package() -> None:
    assert build.version() == installed_version("lethe")


def test_dockerfile_has_the_targets_and_pins_its_base_by_digest() -> None:
    text = (ROOT / build.DOCKERFILE).read_text(encoding="utf-8")
    assert re.findall(r"^FROM lethe AS (\w+)$", text, flags=re.MULTILINE) == list(build.TARGETS[1:])
    assert re.search(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", text, flags=re.MULTILINE)
    assert "USER 10001:10001" in text
