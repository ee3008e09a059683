"""Prompts that are longer than the text encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

from shared.diffusion.model import Model
from shared.errors import InvalidRequestError


def count_long_prompts(model: Model, prompts: Sequence[str], *, truncate: bool) -> int:
    """How many prompts will be cut to the encoder's window; they are refused, with their count, unless they may be cut."""
    lengths = dict(zip(distinct := list(dict.fromkeys(prompts)), model.count_tokens(distinct), strict=True))
    long = [lengths[prompt] for prompt in prompts if lengths[prompt] > model.token_limit]
    if long and not truncate:
        raise InvalidRequestError(
            f"{len(long)} of {len(prompts)} prompts have more tokens than the {model.token_limit} that the text encoder reads (longest: "
            f"{max(long)}, begin and end marker included); register the data set with shorter prompts, or set truncate_prompts.",
            field="truncate_prompts",
        )
    return len(long)
