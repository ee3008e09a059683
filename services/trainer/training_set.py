"""What a training learns from, and which film is shown when. N films, H height, W width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import DatasetError


@dataclass(frozen=True)
class TrainingSet:
    """What is learnt from: grey films N×H×W in [0, 255], a prompt each, and how often each is shown in an epoch."""

    images_NHW: NDArray[np.uint8]
    prompts: list[str]
    repeats: NDArray[np.int64]

    def visits(self, batch_size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Endless batches of film indices; every epoch shuffles all repeats anew, and batches run across epochs."""
        deck = np.repeat(np.arange(len(self.prompts)), self.repeats)
        if not len(deck):
            raise DatasetError("no film is to be shown: the training split is empty, or every film's repeats are 0")
        waiting = np.empty(0, dtype=np.int64)
        while True:
            while len(waiting) < batch_size:
                waiting = np.concatenate([waiting, generator.permutation(deck)])
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]
