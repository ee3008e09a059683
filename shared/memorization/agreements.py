"""Whether an image shows what its prompt asks for, as the finding reader sees it.

An item is a view or a finding, with its side where one is named: ("view", "AP"), ("finding", "Pleural Effusion", "left").
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.imaging.prompts import parse_prompt
from shared.memorization.finding_reader import FindingReader, Item, agreement

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Agreement:
    """The overlap of what was asked and what is seen, both in the words that they have in common; None where nothing was asked."""

    value: float | None
    asked: frozenset[Item]
    seen: frozenset[Item]


def asked_items(prompt: str) -> frozenset[Item]:
    """What a prompt asks to see."""
    return frozenset(tuple(part for part in item if part is not None) for item in parse_prompt(prompt))


def compare(asked: frozenset[Item], seen: frozenset[Item], readable: Sequence[Item]) -> Agreement:
    """The Dice overlap; sides count only where the prompt names one and the reader can tell them.

    A view that the prompt leaves open is no disagreement either.
    """
    sided = {item[1] for item in readable if len(item) == 3}
    judged = frozenset(_without_side(item) if len(item) == 3 and item[1] not in sided else item for item in asked)
    names_view = any(item[0] == "view" for item in judged)
    open_sides = {item[1] for item in judged if item[0] == "finding" and len(item) == 2}
    visible = frozenset(
        _without_side(item) if item[0] == "finding" and item[1] in open_sides else item for item in seen if names_view or item[0] != "view"
    )
    return Agreement(agreement(judged, visible) if judged else None, judged, visible)


def agreements(reader: FindingReader, prompts: Sequence[str], images_NHW: Images) -> list[Agreement]:
    """How far each image shows what its prompt asks for."""
    seen = reader.read(images_NHW)
    return [compare(asked_items(prompt), items, reader.items) for prompt, items in zip(prompts, seen, strict=True)]


def sorted_items(items: AbstractSet[Item]) -> list[list[str]]:
    """Items in a fixed order, as JSON has them."""
    return sorted([part for part in item if part is not None] for item in items)


def _without_side(item: Item) -> Item:
    return item[:2]
