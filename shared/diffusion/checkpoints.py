"""What is kept of a training so that it can go on elsewhere, bit for bit: tensors by name, and the rest as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

# Parts of names; no name of a parameter holds it.
_SEPARATOR = "/"


@dataclass(frozen=True)
class State:
    """Tensors and JSON values of one thing or, under its parts' names, of several."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Mapping[str, State]) -> State:
        """One state of several, each under its name."""
        tensors = {f"{name}{_SEPARATOR}{key}": value for name, part in parts.items() for key, value in part.tensors.items()}
        return cls(tensors, {name: part.facts for name, part in parts.items()})

    def part(self, name: str) -> State:
        """What was joined under a name; KeyError when nothing was."""
        prefix = name + _SEPARATOR
        tensors = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        return State(tensors, self.facts[name])

    def with_part(self, name: str, part: State) -> State:
        """The same with another state under one of the names."""
        others = {key: value for key, value in self.tensors.items() if not key.startswith(name + _SEPARATOR)}
        joined = State.joined({name: part})
        return State(others | joined.tensors, self.facts | joined.facts)

    def copied(self) -> State:
        """The same values on the CPU, safe from the training's next step."""
        return State({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in self.tensors.items()}, self.facts)


@runtime_checkable
class Resumable(Protocol):
    """Something that goes on after `restore(state)` exactly as it would have gone on after `state()`.

    `state()` may hand out live tensors; its facts are values of their own.
    """

    def state(self) -> State:
        """What has to be kept."""
        ...

    def restore(self, state: State) -> None:
        """Go on from what was kept."""
        ...
