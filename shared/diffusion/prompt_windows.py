"""Whether prompts fit into a model's window, told before anything waits for the device: no weights, no lane."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from shared.catalog import Catalog
from shared.diffusion.model import require_fitting, silence_libraries
from shared.diffusion.prompt_encoder import PromptEncoder, open_prompt_encoder

CAPACITY: Final = 16  # tokenizers held in memory, some MB each; reading one anew takes tens of milliseconds


class PromptWindows:
    """The tokenizers of models in use, their own ones: a tokenizer must not be asked by two threads at once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._held: OrderedDict[str, PromptEncoder] = OrderedDict()

    def require_fit(self, model_id: str, prompts: Sequence[str]) -> None:
        """InvalidRequestError for the first prompt that is too long, named by its place; NotFoundError without the model."""
        encoder = self._encoder(model_id)
        with self._lock:
            lengths = encoder.count(prompts)
        require_fitting(lengths, encoder.limit)

    def token_ids(self, model_id: str, prompts: Sequence[str]) -> list[list[int]]:
        """What the model reads of each prompt; refused as by `require_fit`."""
        encoder = self._encoder(model_id)
        with self._lock:
            padded = encoder.pad(prompts)
        require_fitting([len(ids) for ids in padded], encoder.limit)
        return padded

    def _encoder(self, model_id: str) -> PromptEncoder:
        """The model's; read without the lock, because a slow store is no reason for others to wait."""
        encoder = self._held.get(model_id)
        if encoder is None:
            silence_libraries()
            encoder = open_prompt_encoder(self._catalog, model_id)
        with self._lock:
            self._held[model_id] = encoder
            self._held.move_to_end(model_id)
            while len(self._held) > CAPACITY:
                self._held.popitem(last=False)
        return encoder
