"""A Docker engine of the tests' own, with a base image that debootstrap makes: no registry is asked for anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, ServerStartError

PACKAGES = "the Debian packages docker.io, docker-compose, iptables and debootstrap"
# Debian's own, which fit each other, come before what else may be on the PATH.
FOLDERS = [Path("/usr/sbin"), Path("/usr/bin"), Path("/sbin")]
ROOT = Path(__file__).parents[2]
SYSTEM = ROOT / "var" / "containers" / "bookworm.tar"
MIRROR = "http://deb.debian.org/debian"
BASE_IMAGE = "lethe-test/base"
FOLDER_PREFIX = "lethe-docker-"
COMMAND_SECONDS = 900


class DockerEngine:
    """A running engine with its data, state and socket in one throw-away folder, beside any other engine of the machine."""

    def __init__(self, folder: Path | None = None) -> None:
        programs = ("dockerd", "docker", "docker-compose", "iptables", "debootstrap")
        found = {name: find_program(name, package=PACKAGES, folders=FOLDERS) for name in programs}
        if os.geteuid() != 0:
            refuse("an engine needs root")
        self._dockerd, self._debootstrap = found["dockerd"], found["debootstrap"]
        # Not below pytest's folder: a socket's path may have 107 characters.
        self.folder = folder or Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        host = f"unix://{self.folder}/socket"
        self.docker = [found["docker"], "--host", host]
        self.compose = [found["docker-compose"], "--host", host]
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Start the engine, and give it the base image."""
        sweep()
        self.serve()
        self._import_base()

    def serve(self) -> None:
        """Start the engine, with what is in its folder."""
        places = {"data-root": "data", "exec-root": "state", "pidfile": "pid"}
        options = [f"--{name}={self.folder / place}" for name, place in places.items()]
        # Without the default bridge, which another engine of this machine may have; every network is compose's.
        argv = [self._dockerd, *options, "--host", self.docker[-1], "--bridge=none"]
        self._process = ServerProcess(argv, log=self.folder / "dockerd.log")
        try:
            self._process.wait_until(self._answers)
        except ServerStartError as error:
            self._process = None
            self._delete()
            refuse(f"no engine can run here: {str(error)[-300:]}")

    def stop(self) -> None:
        """End all containers and the engine, take its networks off this machine, delete its folder; one that died is no obstacle."""
        if self._process is None:
            return
        if self._answers():
            containers = self.run("ps", "--all", "--quiet").split()
            if containers:
                self.run("rm", "--force", "--volumes", *containers)
            # Bridges and rules of the firewall would outlive it.
            self.run("network", "prune", "--force")
        self._process.stop()
        self._delete()

    def _delete(self) -> None:
        """Delete the folder of an engine that has ended."""
        # The engine leaves its own network namespace mounted, a killed one its data too, which would keep the folder.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.folder}/")]):
            run(["umount", "--lazy", mount])
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments: str) -> str:
        """What a docker command prints; its failure shows what it said."""
        return run([*self.docker, *arguments])

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container or image."""
        return dict(json.loads(self.run("inspect", name))[0])

    def _answers(self) -> bool:
        return subprocess.run([*self.docker, "info"], capture_output=True, check=False).returncode == 0

    def _import_base(self) -> None:
        """Debian with Python, made once and kept."""
        if not SYSTEM.exists():
            self._make_system()
        self.run("import", str(SYSTEM), BASE_IMAGE)

    def _make_system(self) -> None:
        folder, draft = self.folder / "system", SYSTEM.with_suffix(".draft")
        run([self._debootstrap, "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", str(folder), MIRROR])
        SYSTEM.parent.mkdir(parents=True, exist_ok=True)
        run(["tar", "--directory", str(folder), "--exclude=./var/cache/apt/archives/*.deb", "--create", "--file", str(draft), "."])
        draft.replace(SYSTEM)
        shutil.rmtree(folder)


def sweep() -> None:
    """End what engines left whose tests were killed: containers and bridges outlive both, and an engine started anew ends them."""
    for pid in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/pid"):
        if psutil.pid_exists(int(pid.read_text(encoding="ascii"))):
            continue
        # Their numbers may be another process's by now, which would be taken for them.
        for stale in (pid, pid.parent / "state" / "containerd" / "containerd.pid"):
            stale.unlink(missing_ok=True)
        left = DockerEngine(pid.parent)
        left.serve()
        left.stop()


def run(argv: list[str], *, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints, run in the repository; its failure shows the end of what it said."""
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def refuse(reason: str) -> None:
    """Skip with the reason; in CI, which is to run containers, fail with it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
