"""Counts the tokens of prompts as an encoder would read them; the encoder itself is the caller's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

PROMPTS_AT_ONCE: Final = 256  # tokenizers work on many texts in parallel

TokenCounter = Callable[[Sequence[str]], Sequence[int]]
"""Answers how many tokens each prompt has, begin and end included, before anything is cut off."""


def prompt_lengths(prompts: Iterable[str], count: TokenCounter) -> Iterator[int]:
    """The lengths of all prompts in order, counted many at a time."""
    remaining = iter(prompts)
    while batch := list(itertools.islice(remaining, PROMPTS_AT_ONCE)):
        lengths = count(batch)
        if len(lengths) != len(batch):
            raise ValueError(f"count must answer {len(batch)} lengths, not {len(lengths)}")
        yield from lengths
