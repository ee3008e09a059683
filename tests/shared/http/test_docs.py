"""The documentation page."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.anyio


async def test_page_lists_the_routes_and_loads_nothing_from_elsewhere(service: Any) -> None:
    response = await service.client.get("/docs")
    assert response.status_code == 200
    assert "<code>/v1/things/{id}/cancel</code>" in response.text
    assert "/livez" not in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "<script" not in response.text
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
