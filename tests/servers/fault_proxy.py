"""A TCP proxy on loopback that stands between a client and a server, and makes the way slow, silent or short."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 64 * 1024


class FaultProxy:
    """Forwards connections to a port; its faults may be set and lifted while connections are open.

    `rate` bytes a second go each way at most (None: as many as come), nothing goes while it is `frozen`, and `once_after`
    does something, once, when so many bytes have gone towards the client or the server.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.rate: int | None = None
        self._thawed = threading.Event()
        self._thawed.set()
        self._closed = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._trigger: tuple[int, Callable[[], None]] | None = None
        self._passed = 0

    def __enter__(self) -> Self:
        """Accept connections while the block lasts."""
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        """Cut every connection."""
        self._closed = True
        self._thawed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    @property
    def endpoint(self) -> str:
        """Where clients go."""
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Let nothing through; connections stay open."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._thawed.set()

    def cut(self) -> None:
        """Close all connections that are open now."""
        with self._lock:
            opened, self._sockets = self._sockets, set()
        for one in opened:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def once_after(self, size_bytes: int, act: Callable[[], None]) -> None:
        """Do something when so many more bytes have passed, before the next ones do."""
        with self._lock:
            self._passed, self._trigger = 0, (size_bytes, act)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            self._start(lambda source=client, sink=server: self._pump(source, sink))  # type: ignore[misc]
            self._start(lambda source=server, sink=client: self._pump(source, sink))  # type: ignore[misc]

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Forward one direction until either side ends."""
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES if self.rate is None else max(1, min(CHUNK_BYTES, self.rate // 10))):
                self._thawed.wait()
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
                self._count(len(data))
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._passed += size_bytes
            due = self._trigger is not None and self._passed >= self._trigger[0]
            act = self._trigger[1] if due and self._trigger is not None else None
            if due:
                self._trigger = None
        if act is not None:
            act()
