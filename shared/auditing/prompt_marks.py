"""What is kept of a prompt: its length and a keyed hash, which recognises it and does not tell it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, TypedDict

from shared.kept_keys import kept_key
from shared.settings import Settings

KEY_FILE: Final = "prompt-marks.key"


class PromptMark(TypedDict):
    """A prompt without its words."""

    hmac: str
    length: int


def mark_prompts(prompts: Sequence[str], settings: Settings) -> list[PromptMark]:
    """The mark of each prompt, under a key that the installation keeps."""
    key = kept_key(settings.keys_folder / KEY_FILE)
    return [PromptMark(hmac=hmac.digest(key, prompt.encode(), hashlib.sha256).hex(), length=len(prompt)) for prompt in prompts]
