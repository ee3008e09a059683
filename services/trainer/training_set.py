"""What a training learns from, and which film is shown when. N films, H height, W width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from shared.diffusion.checkpoints import State
from shared.errors import DatasetError


def _none() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class TrainingSet:
    """What is learnt from: grey films N×H×W in [0, 255], a prompt each, and how often each is shown in an epoch.

    Films that come from no data set are numbered as they stand, are each of a patient of its own, and are labelled with nothing.
    """

    images_NHW: NDArray[np.uint8]
    prompts: list[str]
    repeats: NDArray[np.int64]
    records: NDArray[np.int64] = field(default_factory=_none)  # their numbers in the data set
    patients: NDArray[np.int64] = field(default_factory=_none)  # a number for each patient
    strata: list[str] = field(default_factory=list)  # what each is labelled with, so that parts of a set can be made alike

    def __post_init__(self) -> None:
        """Fill in what was not given."""
        count = len(self.prompts)
        for name, value in (("records", self.records), ("patients", self.patients)):
            object.__setattr__(self, name, value if len(value) else np.arange(count))
        object.__setattr__(self, "strata", self.strata or [""] * count)

    def subset(self, rows: NDArray[np.int64]) -> TrainingSet:
        """These films, in this order, as a set of their own."""
        return TrainingSet(
            self.images_NHW[rows],
            [self.prompts[row] for row in rows],
            self.repeats[rows],
            self.records[rows],
            self.patients[rows],
            [self.strata[row] for row in rows],
        )

    def visits(self, batch_size: int, generator: np.random.Generator) -> Deck:
        """Endless batches of film indices; every epoch shuffles all repeats anew, and batches run across epochs."""
        return Deck(np.repeat(np.arange(len(self.prompts)), self.repeats), batch_size, generator)


class Deck(Iterator[NDArray[np.int64]]):
    """Film indices as they are dealt: `waiting` holds what is left of the present epoch."""

    def __init__(self, cards: NDArray[np.int64], batch_size: int, generator: np.random.Generator) -> None:
        if not len(cards):
            raise DatasetError("no film is to be shown: the training split is empty, or every film's repeats are 0")
        self.cards = cards
        self.batch_size = batch_size
        self.generator = generator
        self.waiting: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NDArray[np.int64]:
        while len(self.waiting) < self.batch_size:
            self.waiting = np.concatenate([self.waiting, self.generator.permutation(self.cards)])
        dealt, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        return dealt

    def state(self) -> State:
        """What is left of the epoch, and where the generator is."""
        return State({"waiting": torch.from_numpy(self.waiting.copy())}, {"order": self.generator.bit_generator.state})

    def restore(self, state: State) -> None:
        """Deal on from there; whoever shares the generator goes on with it."""
        self.waiting = state.tensors["waiting"].numpy().copy()
        self.generator.bit_generator.state = state.facts["order"]
