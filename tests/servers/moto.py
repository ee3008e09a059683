"""moto's S3 server: a fake with right answers to conditional requests; fit for contracts, not for durability."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, free_port, port_open
from tests.servers.s3_server import S3Server


@contextmanager
def run_moto(folder: Path) -> Iterator[S3Server]:
    """Run moto on a free port for as long as the block lasts."""
    port = free_port()
    program = find_program("moto_server", package="the wheel moto[server]")
    process = ServerProcess([program, "-H", "127.0.0.1", "-p", str(port)], log=folder / "moto.out")
    try:
        process.wait_until(lambda: port_open(port))
        yield S3Server(name="moto", endpoint=f"127.0.0.1:{port}")
    finally:
        process.stop()
