"""Answers that never change: tagged with their digest, and not sent again to who has them."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response


def immutable_response(request: Request, content: bytes, *, sha256: str, media_type: str) -> Response:
    """The content with a strong ETag; 304 without it where If-None-Match names that tag."""
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=31536000, immutable"}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
