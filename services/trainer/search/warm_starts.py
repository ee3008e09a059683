"""Which choices are tried before any is suggested: the fixed ones that a search has to beat, and a first look at each resolution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from services.trainer.search.search_spec import SearchedKind
from services.trainer.search.space import ATTENTION_ALONE, Choice, Space

KEPT_SHARE: Final = 0.39  # of the units that may be masked, MemControl's published mask keeps about 38 of 97 thousand
_BLOCK: Final = re.compile(r"(down|up)_blocks\.(\d+)\.")


def warm_starts(space: Space, seed: int) -> list[Choice]:
    """All modules, none where something learns without, the published share, and each resolution alone; at the middle rate, each once.

    Of several kinds the same mask stands side by side, so that few trials have seen every kind.
    """
    by_kind = [list(_masks(space, kind, seed)) for kind in space.kinds]
    longest = max(map(len, by_kind))
    ordered = [
        _choice(space, kind, masks[place])
        for place in range(longest)
        for kind, masks in zip(space.kinds, by_kind, strict=True)
        if place < len(masks)
    ]
    return list({choice.key(): choice for choice in ordered}.values())


def levels(modules: Sequence[str]) -> dict[str, list[int]]:
    """Positions of the modules of one resolution: those of a down block, and those of the up block that comes back to it."""
    places = [_BLOCK.match(name) for name in modules]
    down, up = ([int(place[2]) for place in places if place is not None and place[1] == side] for side in ("down", "up"))
    # A network comes back through as many blocks; of those with attention, the first on the way down is the last on the way up.
    last = min(down, default=0) + max(up, default=0)
    found: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        depth = None if place is None else int(place[2]) if place[1] == "down" else last - int(place[2])
        found.setdefault("middle" if depth is None else f"level {depth}", []).append(index)
    return found


def _masks(space: Space, kind: SearchedKind, seed: int) -> Iterator[frozenset[int]]:
    always = space.always[kind]
    free = [index for index in range(len(space.modules)) if index not in always]
    yield frozenset(range(len(space.modules)))
    if always or kind not in ATTENTION_ALONE:
        yield always
    kept = np.random.default_rng(seed).permutation(free)[: max(1, round(KEPT_SHARE * len(free)))]
    yield always | {int(index) for index in kept}
    for level in levels(space.modules).values():
        yield always | set(level)


def _choice(space: Space, kind: SearchedKind, mask: frozenset[int]) -> Choice:
    bits = [int(index in mask) for index in range(len(space.modules))]
    middle = space.ranks[len(space.ranks) // 2]
    return Choice(
        kind=kind,
        mask=[1 if bit else 0 for bit in bits],
        ranks=[bit * middle for bit in bits] if kind == "lora" else None,
        learning_rate=space.middle_rate(kind),
        batch_filter=None if space.batch_filters is None else 0,
        captions=None if space.captions is None else 0,
        origin="warm start",
    )
