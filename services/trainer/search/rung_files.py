"""What trials measured at their rungs, in the store before a trial goes on from one: killed anywhere, it is judged the same again.

searches/{search}/trials/{number}/rung-{step}.json
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydantic import Field

from services.trainer.search.search_files import FOLDER
from services.trainer.search.trial import Rung
from shared.http.bodies import StrictSpec
from shared.storage import ObjectStore

_NAME: Final = re.compile(r"(\d+)/rung-(\d+)\.json")


class JudgedRung(StrictSpec):
    """What was measured at a rung, and what followed from it; with the last one the trial is over."""

    rung: Rung
    goes_on: bool = Field(description="Whether the training goes on; after its last step, whether its model is kept.")
    trainable_parameters: int
    trainable_fraction: float
    seconds: float = Field(description="What the trial took so far.")


class RungFiles:
    """The rungs of all trials of one search."""

    def __init__(self, store: ObjectStore, search: str) -> None:
        self._store = store
        self._prefix = f"{FOLDER}/{search}/trials/"

    def keep(self, number: int, judged: JudgedRung) -> None:
        """Note what a trial measured."""
        self._store.put(key=f"{self._prefix}{number}/rung-{judged.rung.step}.json", data=judged.model_dump_json().encode())

    def of(self, number: int) -> list[JudgedRung]:
        """What a trial measured, in the order of its steps."""
        found = sorted((step, key) for _, step, key in self._found(f"{number}/"))
        return [self._read(key) for _, key in found]

    def of_others(self, number: int, step: int) -> list[Rung]:
        """What all other trials measured after so many steps, in the order of their numbers."""
        found = sorted((other, key) for other, at, key in self._found() if at == step and other != number)
        return [self._read(key).rung for _, key in found]

    def _found(self, below: str = "") -> Iterator[tuple[int, int, str]]:
        """Number, step and key of all rungs."""
        last = ""
        while listed := self._store.list(prefix=self._prefix + below, start_after=last):
            last = listed[-1].key
            for info in listed:
                name = _NAME.fullmatch(info.key.removeprefix(self._prefix))
                if name is not None:
                    yield int(name[1]), int(name[2]), info.key

    def _read(self, key: str) -> JudgedRung:
        return JudgedRung.model_validate_json(self._store.get(key=key))
