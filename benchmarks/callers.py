"""Callers who ask a service over HTTP side by side, each again as soon as it is answered.

They speak HTTP/1.1 over plain streams: on the machine that is measured, a client library would take as much time as the service.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """What so many callers saw in one round: how long each answer took, and how long the round lasted."""

    latencies: list[float]
    seconds: float

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The middle and the slow end."""
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "n": len(seconds)}


def ask_side_by_side(url: str, bodies: Iterator[Body], *, callers: int, seconds: float) -> Round:
    """One round of so many callers, of at least so many seconds: nobody begins after them, everybody is waited for."""
    return asyncio.run(_round(url, bodies, callers, seconds))


async def _round(url: str, bodies: Iterator[Body], callers: int, seconds: float) -> Round:
    latencies: list[float] = []
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_call(url, bodies, latencies, began + seconds))
    return Round(latencies, time.perf_counter() - began)


async def _call(url: str, bodies: Iterator[Body], latencies: list[float], until: float) -> None:
    """One caller on one connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        while (began := time.perf_counter()) < until:
            content = json.dumps(next(bodies)).encode()
            head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            about = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write((head + about).encode() + content)
            await _answered(reader)
            latencies.append(time.perf_counter() - began)
    finally:
        writer.close()


async def _answered(reader: asyncio.StreamReader) -> None:
    """Read one answer; one that is no success ends the benchmark."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.partition(":")[2]) for line in head.splitlines() if line.startswith("content-length:"))
    content = await reader.readexactly(length)
    status = head.split(maxsplit=2)[1]
    if status != "200":
        raise RuntimeError(f"the service answered {status}: {content[:500].decode(errors='replace')}")
