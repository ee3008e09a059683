"""A real Prometheus on a loopback port, with a configuration of Lethe's own, and promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, free_port

PACKAGE = "the Debian package prometheus"


class PrometheusServer:
    """A throw-away server that scrapes what the configuration says, every second instead of at leisure."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self._program = find_program("prometheus", package=PACKAGE)
        self._folder = folder
        self._port = free_port()
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        self._file = folder / "prometheus.yml"
        self._file.write_text(yaml.safe_dump({**configuration, "global": every}), encoding="utf-8")
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30)
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        argv = [
            self._program,
            f"--config.file={self._file}",
            f"--storage.tsdb.path={self._folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process = ServerProcess(argv, log=self._folder / "prometheus.log")
        self._process.wait_until(self._is_ready)

    def close(self) -> None:
        """End it."""
        self._client.close()
        if self._process is not None:
            self._process.stop()

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def series(self) -> list[dict[str, str]]:
        """The labels of all series of Lethe, whenever they were seen; alerts are none of Lethe's."""
        found: list[dict[str, str]] = self.get("series", **{"match[]": '{job="lethe", __name__!~"ALERTS.*"}'})
        return found

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


def promtool(*arguments: str | Path, folder: Path | None = None, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    command = [find_program("promtool", package=PACKAGE), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, timeout=60, check=False)
