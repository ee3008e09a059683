"""A PostgreSQL server of the tests' own: one folder, one loopback port, passwords asked for, run by a user without rights."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from tests.servers.absence import find_program
from tests.servers.processes import ServerProcess, ServerStartError, free_port

PACKAGE = "the Debian package postgresql"
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian keeps them off the PATH
# PostgreSQL refuses to run as root; the first of these that exists runs it then.
SERVICE_USERS = ("postgres", "nobody")
USER = "lethe"
START_ATTEMPTS = 5
START_PAUSE_SECONDS = 0.3
# Acknowledged means written to the log file, as in production; that the disk has it too matters only when the power fails.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "fsync": "off",
}


class PostgresServer:
    """A throw-away server that can be killed and started again, records kept."""

    def __init__(self) -> None:
        self._initdb = find_program("initdb", package=PACKAGE, folders=FOLDERS)
        self._postgres = find_program("postgres", package=PACKAGE, folders=FOLDERS)
        self._port = free_port()
        self.password = secrets.token_hex(12)
        # Not below pytest's folder, which is closed to other users.
        self._folder = Path(tempfile.mkdtemp(prefix="lethe-postgres-"))
        self._process: ServerProcess | None = None

    def make(self) -> None:
        """Make the cluster and start it; on failure nothing is left."""
        try:
            self._make_cluster()
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Start it on its folder and port, and wait until it answers."""
        settings = [argument for name, value in SETTINGS.items() for argument in ("-c", f"{name}={value}")]
        argv = [*_as_service_user(), self._postgres, "-D", str(self._data), "-p", str(self._port), *settings]
        for attempts_left in reversed(range(START_ATTEMPTS)):
            process = ServerProcess(argv, log=self._folder / "postgres.log")
            try:
                process.wait_until(self._answers)
            except ServerStartError:
                # The processes of a server that was killed take a moment to let go of its memory.
                if not attempts_left:
                    raise
                time.sleep(START_PAUSE_SECONDS)
            else:
                self._process = process
                return

    def kill(self) -> None:
        """End it at once, as a crash would; what was acknowledged is in its log."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def remove(self) -> None:
        """End it and delete its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"lethe_{secrets.token_hex(6)}"
        with self._connect() as connection:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self._port}/{name}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _make_cluster(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        user = _service_user()
        if user is not None:
            for path in (self._folder, password_file):
                shutil.chown(path, user)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", f"--username={USER}", f"--pwfile={password_file}"]
        argv = [*_as_service_user(), self._initdb, "-D", str(self._data), *options]
        made = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd=self._folder)
        if made.returncode != 0:
            raise ServerStartError(f"initdb ended with {made.returncode}:\n{made.stderr[-3000:]}")

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self._port, user=USER, password=self.password, dbname="postgres", autocommit=True, connect_timeout=5
        )


def _service_user() -> str | None:
    """Who runs the server when the tests run as root; None when they do not."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in SERVICE_USERS if name in known)


def _as_service_user() -> list[str]:
    """What runs a command as that user; a change of user clears the wish to die with the parent, so it is said again."""
    user = _service_user()
    if user is None:
        return []
    group = pwd.getpwnam(user).pw_gid
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--pdeathsig", "KILL", "--"]
