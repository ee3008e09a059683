"""Requests that wait: the refusal says how many."""

from __future__ import annotations

from shared.diffusion.waiting import refusal
from shared.errors import SaturatedError


def test_refusal_is_typed_and_says_how_many_wait() -> None:
    refused = refusal(64)
    assert isinstance(refused, SaturatedError)
    assert str(refused) == "64 requests wait already; try again later."
