"""What the denoiser is told of the visited films. N films, K distinct prompts, B batch, L tokens, E embedding features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.diffusion.model import Model

TextEncoder = Literal["train", "frozen"]
ENCODED_AT_ONCE: Final = 64  # prompts of one forward while the cache is filled


class PromptEmbeddings:
    """Text-encoder output of visited films' prompts: encoded at every visit, or, where the encoder is frozen, once a distinct prompt."""

    def __init__(self, model: Model, prompts: Sequence[str], *, text_encoder: TextEncoder, cached: bool) -> None:
        self.model = model
        self.learning = text_encoder == "train"
        self.tokens_NL = model.tokenize(prompts, truncate=True)
        self.empty_1L = model.tokenize([""])
        self.embeddings_KLE: Tensor | None = None
        if cached and not self.learning:
            distinct_KL, places_N = torch.unique(torch.cat([self.empty_1L, self.tokens_NL]), dim=0, return_inverse=True)
            self.embeddings_KLE = torch.cat([self._encode(some_BL) for some_BL in distinct_KL.split(ENCODED_AT_ONCE)])
            self.empty_place, self.places_N = places_N[0], places_N[1:]

    def __call__(self, rows_B: NDArray[np.int64], dropped_B: Tensor, transformed: Sequence[str] | None = None) -> Tensor:
        """Embeddings B×L×E of these films' prompts, or of what they were transformed into; the empty prompt's where dropped."""
        if self.embeddings_KLE is None or transformed is not None:
            return self._encode(self.tokens(rows_B, dropped_B, transformed))
        return self.embeddings_KLE[torch.where(dropped_B.to(self.places_N.device), self.empty_place, self.places_N[rows_B])]

    def empty(self, count: int) -> Tensor:
        """The empty prompt's embedding, as often as asked: count×L×E."""
        if self.embeddings_KLE is not None:
            return self.embeddings_KLE[self.empty_place].expand(count, -1, -1)
        return self._encode(self.empty_1L).expand(count, -1, -1)

    def tokens(self, rows_B: NDArray[np.int64], dropped_B: Tensor, transformed: Sequence[str] | None = None) -> Tensor:
        """Token ids B×L of this visit."""
        tokens_BL = self.tokens_NL[rows_B] if transformed is None else self.model.tokenize(transformed, truncate=True)
        return torch.where(dropped_B[:, None].to(tokens_BL.device), self.empty_1L, tokens_BL)

    def _encode(self, tokens_BL: Tensor) -> Tensor:
        """The encoder's output; in full precision and without a graph where it does not learn, so that a cache answers the same."""
        if self.learning:
            return torch.as_tensor(self.model.text_encoder(tokens_BL)[0])
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            return torch.as_tensor(self.model.text_encoder(tokens_BL)[0])
