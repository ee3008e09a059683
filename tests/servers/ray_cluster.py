"""A Ray cluster on loopback addresses: a head that runs nothing, and nodes of one CPU each; token asked for, no dashboard."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, free_port

PACKAGE = "the wheel ray (pip install ray)"
STORE_BYTES = 80_000_000  # the smallest that Ray accepts is 75 MiB
STARTED = "Ray runtime started"
# Dead nodes are noticed within seconds, where a cluster across machines is more patient.
PATIENCE = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "3"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}


class RayCluster:
    """A throw-away cluster; each of its nodes can be killed as a machine would die."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._ray = find_program("ray", package=PACKAGE)
        # Not below pytest's folder: the paths of Ray's sockets would be too long.
        self._folder = Path(tempfile.mkdtemp(prefix="lr-", dir="/tmp"))
        self.token_file = self._folder / "token"
        self.token_file.write_text(secrets.token_hex(32))
        self.environment = {**environment, **QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        # Every node of one machine needs an address of its own; Ray turns 127.0.0.1 into one that others can reach.
        self._hosts = (f"127.0.0.{number}" for number in itertools.count(2))
        self._head_host = next(self._hosts)
        self._port = free_port()
        self._nodes: list[ServerProcess] = []

    @property
    def address(self) -> str:
        """Where the head answers."""
        return f"{self._head_host}:{self._port}"

    def start(self, *, nodes: int) -> None:
        """Start the head and nodes of one CPU; on failure nothing keeps running."""
        try:
            self._await(self._start_head())
            for node in [self._start_node() for _ in range(nodes)]:
                self._await(node)
        except BaseException:
            self.remove()
            raise

    def add_node(self) -> None:
        """Start one more node of one CPU."""
        self._await(self._start_node())

    def node_of(self, pids: set[int]) -> ServerProcess:
        """The node whose process is among these."""
        return next(node for node in self._nodes if node.pid in pids)

    def remove(self) -> None:
        """End all nodes, the youngest first, and delete their folders."""
        for node in reversed(self._nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_head(self) -> ServerProcess:
        options = ["--head", f"--port={self._port}", "--include-dashboard=false", "--no-monitor", "--num-cpus=0"]
        return self._start(self._head_host, *options)

    def _start_node(self) -> ServerProcess:
        return self._start(next(self._hosts), f"--address={self.address}", "--num-cpus=1")

    def _start(self, host: str, *options: str) -> ServerProcess:
        """Begin to start a node; the kernel ends all its processes when the first of them ends."""
        shared = ["--block", "--disable-usage-stats", "--include-log-monitor=false", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}"]
        folder = self._folder / host.rpartition(".")[2]
        argv = [self._ray, "start", *shared, f"--node-ip-address={host}", f"--temp-dir={folder}", *options]
        node = ServerProcess(argv, log=self._folder / f"{host}.log", environment={**os.environ, **PATIENCE, **self.environment})
        self._nodes.append(node)
        return node

    @staticmethod
    def _await(node: ServerProcess) -> None:
        node.wait_until(lambda: STARTED in node.log.read_text(encoding="utf-8"), timeout_seconds=120)
