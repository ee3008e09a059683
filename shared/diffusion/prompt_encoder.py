"""The tokenizer of a model, to measure prompts with before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shared.catalog import Catalog
from shared.errors import InvalidRequestError
from shared.imaging.prompts import TokenCounter

_TOKENIZER: Final = "tokenizer/"
_ENCODER_CONFIG: Final = "text_encoder/config.json"


@dataclass(frozen=True)
class PromptEncoder:
    """How many tokens prompts have, how many the text encoder reads, and which those are, padded as the model pads them."""

    count: TokenCounter
    limit: int
    pad: Callable[[Sequence[str]], list[list[int]]]


def open_prompt_encoder(catalog: Catalog, model_id: str) -> PromptEncoder:
    """The tokenizer and the window of a committed model; its weights are not fetched."""
    from transformers import CLIPTokenizer

    manifest = catalog.get("model", model_id)
    names = [entry.path for entry in manifest.files if entry.path.startswith(_TOKENIZER)]
    if not names:
        raise InvalidRequestError(f"The model {model_id} has no tokenizer.", field="prompt.encoder")
    paths = [catalog.fetch_file(manifest, name) for name in names]
    tokenizer = CLIPTokenizer.from_pretrained(paths[0].parent, local_files_only=True)

    def count(prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]

    config = json.loads(catalog.read_file(manifest, _ENCODER_CONFIG))
    limit = int(config["max_position_embeddings"])

    def pad(prompts: Sequence[str]) -> list[list[int]]:
        padded: list[list[int]] = tokenizer(list(prompts), padding="max_length", max_length=limit)["input_ids"]
        return padded

    return PromptEncoder(count, limit, pad)
