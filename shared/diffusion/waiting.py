"""Requests that wait: how many may, what the next one is told, and how many do."""

from __future__ import annotations

from typing import Final

from prometheus_client import Gauge

from shared.errors import SaturatedError

MAX_WAITING: Final = 64  # refusing early keeps the wait of those already queued bearable

WAITING = Gauge("lethe_requests_waiting", "Requests that wait for their turn, for a batch, or for what it answers.")


def refusal(waiting: int) -> SaturatedError:
    """What a request is told that finds so many before it."""
    return SaturatedError(f"{waiting} requests wait already; try again later.")
