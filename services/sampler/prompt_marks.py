"""What is kept of a prompt: its length and a keyed hash, which recognises it and does not tell it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from shared.kept_keys import kept_key
from shared.settings import Settings


def mark_prompts(prompts: Sequence[str], settings: Settings) -> list[dict[str, str | int]]:
    """The mark of each prompt, under a key that the installation keeps."""
    key = kept_key(settings.keys_folder / "prompt-marks.key")
    return [{"hmac": hmac.digest(key, prompt.encode(), hashlib.sha256).hex(), "length": len(prompt)} for prompt in prompts]
