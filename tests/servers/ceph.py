"""A single-node Ceph Object Gateway: one monitor, one storage daemon that keeps objects in memory, one S3 gateway."""

from __future__ import annotations

import secrets
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.absence import find_program
from tests.servers.processes import POLL_SECONDS, ServerProcess, ServerStartError, free_port, port_open
from tests.servers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

PROGRAMS = ("ceph", "monmaptool", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
PACKAGES = "the Debian packages ceph-mon, ceph-osd and radosgw"
STORE_BYTES = 2 * 1024**3
# Ceph's own: from here on it takes no more.
FULL_RATIO = 0.95

# What the container tests' Ceph has too; its image is built from that folder, and sees no other.
SHARED_CONFIGURATION = Path(__file__).parents[1] / "containers" / "servers" / "ceph.conf"
OWN_CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{monitor_port}
log_file = {folder}/log/$name.log
run_dir = {folder}/run
crash_dir = {folder}/run

[mon]
mon_data = {folder}/mon

[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {store_bytes}

[client.rgw]
# Without tcp_nodelay small answers wait 40 ms for a delayed acknowledgement.
rgw_frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:{gateway_port}
rgw_data = {folder}/run
# A gateway that was killed counts as informed of changes for half a minute, for which its successor waits; unless nothing is cached.
rgw_cache_enabled = false
# Quotas are looked up at every write, not every ten minutes.
rgw_bucket_quota_ttl = 0
"""


@dataclass(frozen=True)
class CephUser:
    """Somebody with keys of their own, who may do nothing yet."""

    name: str
    access_key: str
    secret_key: str

    @property
    def principal(self) -> str:
        """What policies call the user."""
        return f"arn:aws:iam:::user/{self.name}"


class CephCluster:
    """A throw-away cluster below one folder; its gateway can be killed and started again, objects kept."""

    def __init__(self, folder: Path) -> None:
        self._programs = {name: find_program(name, package=PACKAGES) for name in PROGRAMS}
        self._folder = folder
        self._configuration = folder / "ceph.conf"
        self._gateway_port = free_port()
        self._monitor_port = free_port()
        self._daemons = ExitStack()
        self._gateway: ServerProcess | None = None

    @property
    def server(self) -> S3Server:
        """Where and with which keys the gateway answers."""
        return S3Server(name="ceph", endpoint=f"127.0.0.1:{self._gateway_port}")

    def start(self) -> None:
        """Make the cluster and its S3 user; on failure nothing keeps running."""
        try:
            self._make_monitor()
            self._make_storage_daemon()
            self.start_gateway()
            self.administer(
                *("user", "create", "--uid=lethe", "--display-name=lethe"), f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"
            )
        except BaseException:
            self.stop()
            raise

    def add_user(self, name: str) -> CephUser:
        """Make a user."""
        user = CephUser(name, access_key=secrets.token_hex(10), secret_key=secrets.token_hex(20))
        self.administer(
            *("user", "create", f"--uid={name}", f"--display-name={name}"),
            f"--access-key={user.access_key}",
            f"--secret-key={user.secret_key}",
        )
        return user

    def limit_objects(self, user: CephUser, count: int) -> None:
        """Let a user's buckets take no more than so many objects."""
        scope = ("--quota-scope=user", f"--uid={user.name}")
        self.administer("quota", "set", *scope, f"--max-objects={count}")
        self.administer("quota", "enable", *scope)

    def lift_limit(self, user: CephUser) -> None:
        """Let them take any number again."""
        self.administer("quota", "disable", "--quota-scope=user", f"--uid={user.name}")

    @contextmanager
    def full(self) -> Iterator[None]:
        """What the cluster holds is all that it can, until the block ends: writes stay without an answer, reads get theirs."""
        for step in ("nearfull", "backfillfull", "full"):
            self._run("ceph", "osd", f"set-{step}-ratio", "0.000001")
        try:
            self._wait_for_health(lambda report: "OSD_FULL" in report)
            yield
        finally:
            for step in ("full", "backfillfull", "nearfull"):
                self._run("ceph", "osd", f"set-{step}-ratio", str(FULL_RATIO))
            self._wait_for_health(lambda report: "OSD_FULL" not in report)

    def administer(self, *arguments: str) -> None:
        """Run radosgw-admin."""
        self._run("radosgw-admin", "-n", "client.rgw", *arguments)

    def start_gateway(self) -> None:
        """Start the S3 gateway and wait until it answers."""
        self._gateway = self._spawn("radosgw", "-n", "client.rgw", "-f")
        self._gateway.wait_until(lambda: port_open(self._gateway_port))

    def kill_gateway(self) -> None:
        """End the S3 gateway at once; monitor, storage daemon and objects stay."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway = None

    def stop(self) -> None:
        """End all daemons at once; nothing of a throw-away cluster is worth an orderly end, which takes seconds."""
        self.kill_gateway()
        self._daemons.close()

    def _make_monitor(self) -> None:
        for name in ("mon", "osd", "log", "run"):
            (self._folder / name).mkdir(parents=True)
        fsid = str(uuid.uuid4())
        own = OWN_CONFIGURATION.format(
            fsid=fsid,
            folder=self._folder,
            monitor_port=self._monitor_port,
            gateway_port=self._gateway_port,
            store_bytes=STORE_BYTES,
        )
        self._configuration.write_text(SHARED_CONFIGURATION.read_text() + own)
        monitor_map = str(self._folder / "monmap")
        address = f"[v2:127.0.0.1:{self._monitor_port}]"
        # The map is made by hand: from mon_host alone a monitor would bind the standard ports.
        self._execute("monmaptool", "--create", "--fsid", fsid, "--set-min-mon-release", "16", "--addv", "a", address, monitor_map)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitor_map)
        monitor = self._spawn("ceph-mon", "-i", "a", "-f")
        self._daemons.callback(monitor.kill)
        monitor.wait_until(lambda: port_open(self._monitor_port))

    def _make_storage_daemon(self) -> None:
        daemon_id = str(uuid.uuid4())
        self._run("ceph", "osd", "new", daemon_id, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", daemon_id)
        self._daemons.callback(self._spawn("ceph-osd", "-i", "0", "-f").kill)

    def _spawn(self, program: str, *arguments: str) -> ServerProcess:
        argv = [self._programs[program], "-c", str(self._configuration), *arguments]
        return ServerProcess(argv, log=self._folder / "log" / f"{program}.out")

    def _wait_for_health(self, is_so: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so(report := self._run("ceph", "health", "detail")):
            if time.monotonic() > deadline:
                raise ServerStartError(f"the cluster stays at: {report}")
            time.sleep(POLL_SECONDS)

    def _run(self, program: str, *arguments: str) -> str:
        return self._execute(program, "-c", str(self._configuration), *arguments)

    def _execute(self, program: str, *arguments: str) -> str:
        finished = subprocess.run([self._programs[program], *arguments], capture_output=True, text=True, timeout=60, check=False)
        if finished.returncode != 0:
            raise ServerStartError(f"{program} {arguments} ended with {finished.returncode}:\n{finished.stderr[-3000:]}")
        return finished.stdout
