"""A sampler in this process on a stocked home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx
    from fastapi import FastAPI

    from tests.fixtures.apps import OpenApp
    from tests.fixtures.models import StockedHome


@pytest.fixture
def sampler_app(stocked_home: StockedHome) -> FastAPI:
    """The sampler's app on a home of the test's own, which holds a model."""
    from services.sampler.app import create_app

    return create_app(stocked_home.settings)


@pytest.fixture
async def sampler(sampler_app: FastAPI, running_app: OpenApp, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running app."""
    del anyio_backend
    async with running_app(sampler_app) as client:
        yield client
