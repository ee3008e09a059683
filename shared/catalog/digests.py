"""The digest of a manifest: SHA-256 over its canonical JSON without the digest itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over keys sorted, no blanks, UTF-8, no NaN; the field `digest` is left out."""
    kept = {name: value for name, value in content.items() if name != "digest"}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
