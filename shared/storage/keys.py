"""What an object's key looks like: one short pattern that is safe as a path, as a URL and as an S3 key."""

from __future__ import annotations

import re

from shared.errors import InvalidRequestError

# Every file system takes 255 bytes a name, S3 takes 1024 bytes a key; both leave room.
KEY_LENGTH_MAX = 1000
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)*({_SEGMENT})?")


def validate_key(key: str) -> str:
    """Return the key, or refuse it; no segment begins with a dot, so none is hidden and none climbs."""
    if len(key) > KEY_LENGTH_MAX or not _KEY.fullmatch(key):
        raise InvalidRequestError(
            f"The object key {key[:80]!r} is not made of segments of letters, digits, '.', '_' and '-', none with a leading dot.",
            field="key",
        )
    return key


def validate_prefix(prefix: str) -> str:
    """Return the prefix, or refuse it: the beginning of a valid key, empty for all."""
    if len(prefix) > KEY_LENGTH_MAX or not _PREFIX.fullmatch(prefix):
        raise InvalidRequestError(f"The prefix {prefix[:80]!r} is not the beginning of an object key.", field="prefix")
    return prefix
