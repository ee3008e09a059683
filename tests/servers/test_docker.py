"""The tests' own engine leaves nothing behind: not where it cannot start, not where its tests were killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import docker
from tests.servers.docker import DockerEngine

Programs = Callable[[str], None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Makes programs that stand for an engine's: the client always succeeds, the engine does what is told."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(docker, "find_program", lambda name, **_: str(tmp_path / name))

    def make(engine: str) -> None:
        for name, script in {"dockerd": engine, "docker": "exit $(test -e " + str(tmp_path / "answers") + "; echo $?)"}.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)

    return make


def test_engine_that_cannot_start_is_skipped_with_its_reason(programs: Programs, tmp_path: Path) -> None:
    programs("echo no permission to mount; exit 1")
    engine = DockerEngine()
    with pytest.raises(pytest.skip.Exception, match="no permission to mount"):
        engine.serve()
    engine.stop()
    assert not list(tmp_path.glob("lethe-docker-*"))


def test_engine_that_died_is_stopped_all_the_same(programs: Programs, tmp_path: Path) -> None:
    programs(f"touch {tmp_path}/answers; sleep 1; rm {tmp_path}/answers")
    engine = DockerEngine()
    engine.serve()
    assert engine._process is not None
    engine._process._process.wait()
    engine.stop()
    assert not list(tmp_path.glob("lethe-docker-*"))


def test_what_a_killed_engine_left_is_swept_and_a_living_one_kept(programs: Programs, tmp_path: Path) -> None:
    programs(f"touch {tmp_path}/answers; exec sleep 60")
    for name, pid in {"dead": 2**22 + 1, "living": os.getpid()}.items():
        (tmp_path / f"lethe-docker-{name}").mkdir()
        (tmp_path / f"lethe-docker-{name}" / "pid").write_text(str(pid))
    docker.sweep()
    assert [folder.name for folder in tmp_path.glob("lethe-docker-*")] == ["lethe-docker-living"]
