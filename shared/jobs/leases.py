"""Who holds a lease: names of service processes that tell later whether the process is still there."""

from __future__ import annotations

import os
import secrets
import socket
from datetime import timedelta
from pathlib import Path

# Long enough to survive a slow disk, short enough that a job does not wait long after its machine died.
LEASE = timedelta(seconds=30)

_UNKNOWN = "-"


def new_owner() -> str:
    """A name for this process as holder of leases: host, process namespace, process id, its start, and a random part."""
    pid = os.getpid()
    return "/".join((socket.gethostname(), _namespace(), str(pid), _started(pid) or _UNKNOWN, secrets.token_hex(4)))


def owner_is_gone(owner: str) -> bool:
    """Whether the named process certainly ended; False when that cannot be told from here (the lease then runs out)."""
    parts = owner.split("/")
    if len(parts) != 5:
        return False
    host, namespace, pid, started, _ = parts
    if host != socket.gethostname() or namespace == _UNKNOWN or namespace != _namespace() or not pid.isdecimal():
        return False
    return _started(int(pid)) != started


def _namespace() -> str:
    """Identity of the process namespace: the same process id means the same process only inside it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot + "." + str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat[stat.rindex(")") + 2 :].split()  # the name in brackets may hold spaces
    return None if state in {"Z", "X"} else fields[18]
