"""What a search may choose: kinds of parameters, attention modules, ranks, learning rates, batch filters and captions.

Everything is a choice among finitely many options, so that "the same configuration" is exact and none has to be tried twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from services.trainer.caption_rules import CaptionRule
from services.trainer.filter_rules import FilterRule
from services.trainer.search.search_spec import SearchedKind, SearchSpec
from services.trainer.training_spec import TrainingSpec
from shared.errors import InvalidRequestError
from shared.http.bodies import StrictSpec

Origin = Literal["warm start", "suggested", "neighbour"]

ATTENTION_ALONE: Final = frozenset[SearchedKind]({"attention", "lora"})  # with no module chosen, nothing would learn
PAPER_ALWAYS: Final = re.compile(r"up_blocks\.\d+\.attentions\.2")  # MemControl never masks them, hence 13 bits on Stable Diffusion 1.5
PAPER_KINDS: Final = frozenset[SearchedKind]({"svdiff", "diffit"})


class Choice(StrictSpec):
    """One configuration that a trial tries."""

    kind: SearchedKind
    mask: list[Literal[0, 1]]
    ranks: list[int] | None = None
    learning_rate: float
    batch_filter: int | None = None
    captions: int | None = None
    origin: Origin = "suggested"

    def key(self) -> str:
        """What it is, whoever thought of it: two choices with the same key are the same training."""
        return json.dumps(self.model_dump(exclude={"origin"}))


@dataclass(frozen=True)
class Axis:
    """One thing that is chosen: how many options there are, and whether they lie in an order."""

    options: int
    ordered: bool


@dataclass(frozen=True)
class Space:
    """All choices of a search over one base; `modules` are its attention modules in the order of a pass."""

    template: TrainingSpec
    modules: tuple[str, ...]
    always: Mapping[SearchedKind, frozenset[int]]
    rates: Mapping[SearchedKind, tuple[float, ...]]
    ranks: tuple[int, ...]
    batch_filters: tuple[FilterRule | None, ...] | None
    captions: tuple[tuple[CaptionRule, ...], ...] | None

    @classmethod
    def of(cls, spec: SearchSpec, modules: Sequence[str]) -> Space:
        """The space that a search asks for, over a base with these attention modules."""
        if not modules:
            raise InvalidRequestError("The base has no attention modules, which are what a search chooses among.", field="space")
        vary = spec.vary
        return cls(
            template=spec.training,
            modules=tuple(modules),
            always={kind: _always(spec.always, kind, modules) for kind in spec.kinds},
            rates={kind: tuple(spec.rates_of(kind)) for kind in spec.kinds},
            ranks=tuple(spec.ranks),
            batch_filters=tuple(vary.batch_filter) if vary is not None and vary.batch_filter is not None else None,
            captions=tuple(map(tuple, vary.captions)) if vary is not None and vary.captions is not None else None,
        )

    @property
    def kinds(self) -> tuple[SearchedKind, ...]:
        """Kinds of parameters that may be chosen."""
        return tuple(self.rates)

    @property
    def size(self) -> int:
        """How many different choices there are."""
        return sum(self._masks(kind) * len(self.rates[kind]) for kind in self.kinds) * self._beside

    @property
    def _beside(self) -> int:
        return len(self.batch_filters or (None,)) * len(self.captions or (None,))

    def _masks(self, kind: SearchedKind) -> int:
        """Masks of a kind; of LoRA, those with every rank."""
        always, ways = len(self.always[kind]), len(self.ranks) if kind == "lora" else 1
        count: int = ways**always * (1 + ways) ** (len(self.modules) - always)
        return count - (kind in ATTENTION_ALONE and not always)

    # ---------------------------------------------------------------- choices as genes

    def axes(self, genes: Mapping[str, int]) -> Iterator[tuple[str, Axis]]:
        """What is left to choose, one after the other, while `genes` fills with what was chosen: some axes are there for others' sake."""
        if len(self.kinds) > 1:
            yield "kind", Axis(len(self.kinds), ordered=False)
        kind = self.kinds[genes.get("kind", 0)]
        yield f"rate.{kind}", Axis(len(self.rates[kind]), ordered=True)
        for index in range(len(self.modules)):
            if index not in self.always[kind]:
                yield f"bit.{index}", Axis(2, ordered=False)
            if kind == "lora" and len(self.ranks) > 1 and genes.get(f"bit.{index}", 1):
                yield f"rank.{index}", Axis(len(self.ranks), ordered=True)
        if self.batch_filters is not None:
            yield "batch_filter", Axis(len(self.batch_filters), ordered=False)
        if self.captions is not None:
            yield "captions", Axis(len(self.captions), ordered=False)

    def every_axis(self) -> dict[str, Axis]:
        """All axes that some choice has."""
        return {name: axis for kind in range(len(self.kinds)) for name, axis in self.axes({"kind": kind})}

    def choice(self, genes: Mapping[str, int], origin: Origin) -> Choice | None:
        """What genes stand for; None where nothing would learn."""
        kind = self.kinds[genes.get("kind", 0)]
        mask: list[Literal[0, 1]] = [1 if genes.get(f"bit.{index}", 1) else 0 for index in range(len(self.modules))]
        if kind in ATTENTION_ALONE and not any(mask):
            return None
        ranks = [bit and self.ranks[genes.get(f"rank.{index}", 0)] for index, bit in enumerate(mask)]
        return Choice(
            kind=kind,
            mask=mask,
            ranks=ranks if kind == "lora" else None,
            learning_rate=self.rates[kind][genes[f"rate.{kind}"]],
            batch_filter=genes.get("batch_filter"),
            captions=genes.get("captions"),
            origin=origin,
        )

    def genes(self, choice: Choice) -> dict[str, int]:
        """The option taken on each axis; the way back from `choice`."""
        genes: dict[str, int] = {}
        for name, _ in self.axes(genes):
            genes[name] = self._gene(choice, name)
        return genes

    def _gene(self, choice: Choice, name: str) -> int:
        axis, _, index = name.partition(".")
        match axis:
            case "kind":
                return self.kinds.index(choice.kind)
            case "rate":
                return self.rates[choice.kind].index(choice.learning_rate)
            case "bit":
                return choice.mask[int(index)]
            case "rank":
                return self.ranks.index((choice.ranks or [])[int(index)])
            case _:
                return int(getattr(choice, axis))

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """Choices one step away: another bit, the next rate or rank, another filter, other captions, another kind."""
        genes = self.genes(choice)
        for name, axis in list(self.axes(genes)):
            here = genes[name]
            options = (here - 1, here + 1) if axis.ordered else range(axis.options)
            for option in options:
                if option != here and 0 <= option < axis.options and (near := self._moved(choice, genes, name, option)) is not None:
                    yield near

    def _moved(self, choice: Choice, genes: Mapping[str, int], name: str, option: int) -> Choice | None:
        """With one axis at another option; axes that come with it take what the choice has, or their middle."""
        moved: dict[str, int] = {}
        for each, axis in self.axes(moved):
            moved[each] = option if each == name else genes.get(each, 1 if each.startswith("bit") else axis.options // 2)
        return self.choice(moved, choice.origin)

    # ---------------------------------------------------------------- choices as trainings

    def middle_rate(self, kind: SearchedKind) -> float:
        """The rate in the middle of a kind's grid."""
        return self.rates[kind][len(self.rates[kind]) // 2]

    def training(self, choice: Choice) -> TrainingSpec:
        """The training that a choice stands for."""
        parameters: dict[str, Any] = {"kind": choice.kind, "learning_rate": choice.learning_rate}
        parameters |= {"mask": choice.mask} if choice.ranks is None else {"ranks": choice.ranks}
        told = self.template.model_dump() | {"learning_rate": choice.learning_rate, "parameters": parameters}
        if choice.batch_filter is not None and self.batch_filters is not None:
            rule = self.batch_filters[choice.batch_filter]
            told["batch_filter"] = None if rule is None else rule.model_dump()
        if choice.captions is not None and self.captions is not None:
            told["captions"] = [caption.model_dump() for caption in self.captions[choice.captions]]
        return TrainingSpec.model_validate(told)

    @property
    def modules_digest(self) -> str:
        """Of the attention modules' names: two bases have the same bits only where it is the same."""
        return modules_digest(self.modules)


def modules_digest(modules: Sequence[str]) -> str:
    """SHA-256 of attention modules' names in their order."""
    return sha256("\n".join(modules).encode()).hexdigest()


def _always(asked: Sequence[str] | None, kind: SearchedKind, modules: Sequence[str]) -> frozenset[int]:
    """Positions of the modules whose bit is always 1."""
    if asked is None:
        taken = kind in PAPER_KINDS
        return frozenset(index for index, name in enumerate(modules) if taken and PAPER_ALWAYS.fullmatch(name))
    for name in asked:
        if name not in modules:
            raise InvalidRequestError(f"The base has no attention module {name}; it has {', '.join(modules)}.", field="always")
    return frozenset(modules.index(name) for name in asked)
