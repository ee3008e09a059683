"""Tagged answers that never change."""

from __future__ import annotations

import pytest
from fastapi import Request

from shared.http.immutable import immutable_response


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


def test_content_is_sent_with_its_digest_as_tag() -> None:
    response = immutable_response(request(), b"png", sha256="ab", media_type="image/png")
    assert (response.status_code, response.body) == (200, b"png")
    assert response.headers["etag"] == '"ab"'
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize("known", ['"ab"', 'W/"ab"', '"cd", "ab"', "*"])
def test_known_content_is_not_sent_again(known: str) -> None:
    response = immutable_response(request(if_none_match=known), b"png", sha256="ab", media_type="image/png")
    assert (response.status_code, response.body) == (304, b"")


def test_content_of_another_tag_is_sent() -> None:
    assert immutable_response(request(if_none_match='"cd"'), b"png", sha256="ab", media_type="image/png").status_code == 200
