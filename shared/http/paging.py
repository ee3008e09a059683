"""Pages: signed opaque tokens that continue a list, and the shape of a list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, Field

from shared.http.bodies import StrictQuery
from shared.http.problems import MalformedRequestError
from shared.kept_keys import kept_key
from shared.settings import Settings

ItemT = TypeVar("ItemT")

KEY_FILE: Final = "page-tokens.key"
_TAG_BYTES: Final = 16


class PageQuery(StrictQuery):
    """How much of a list is asked for, and where it goes on."""

    page_size: int = Field(default=50, ge=1, le=200, description="Items of one page.")
    page_token: str | None = Field(default=None, max_length=1024, description="The next_page_token of the page before.")


class Page(BaseModel, Generic[ItemT]):
    """One page of a list; `next_page_token` is absent on the last one."""

    items: list[ItemT]
    next_page_token: str | None = Field(default=None, exclude_if=lambda token: token is None)


class PageTokens:
    """Makes and reads page tokens, signed so that a cursor cannot be made up."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, settings: Settings) -> PageTokens:
        """Tokens signed with the key kept under LETHE_HOME, which outlives restarts."""
        return cls(kept_key(settings.keys_folder / KEY_FILE))

    def sign(self, *, scope: str, cursor: str) -> str:
        """The token that continues the list named `scope` after `cursor`."""
        payload = json.dumps([scope, cursor], ensure_ascii=True, separators=(",", ":")).encode("ascii")
        return base64.urlsafe_b64encode(self._tag(payload) + payload).decode("ascii").rstrip("=")

    def read(self, *, scope: str, token: str | None) -> str | None:
        """The cursor of a token; MalformedRequestError when it was not made for this list by this installation."""
        if token is None:
            return None
        unreadable = MalformedRequestError("The page_token is not one that this list gave out; start without it.")
        try:
            signed = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except (binascii.Error, UnicodeEncodeError) as error:
            raise unreadable from error
        tag, payload = signed[:_TAG_BYTES], signed[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(payload)):
            raise unreadable
        signed_scope, cursor = json.loads(payload)
        if signed_scope != scope:
            raise unreadable
        return str(cursor)

    def _tag(self, payload: bytes) -> bytes:
        """The signature of a payload."""
        return hmac.digest(self._key, payload, hashlib.sha256)[:_TAG_BYTES]
