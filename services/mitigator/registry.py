"""Every strategy by name: its parameters, its cost, its source, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from services.mitigator.embedding_optimisation import EmbeddingOptimisation, OptimisationParameters
from services.mitigator.guidance_timing import GuidanceTiming, TimingParameters
from services.mitigator.mitigation import Ladder, automatic_ladder
from services.mitigator.prompt_generalisation import GeneralisationParameters, PromptGeneralisation
from services.mitigator.strategy import Strategy, StrategyParameters
from shared.errors import InvalidRequestError

AUTO: Final = "auto"


@dataclass(frozen=True)
class Entry:
    """A strategy's class and the class of its parameters."""

    strategy: Any  # a class of the Strategy protocol, called with its parameters
    parameters: type[StrategyParameters]


STRATEGIES: Final[Mapping[str, Entry]] = {
    PromptGeneralisation.name: Entry(PromptGeneralisation, GeneralisationParameters),
    EmbeddingOptimisation.name: Entry(EmbeddingOptimisation, OptimisationParameters),
    GuidanceTiming.name: Entry(GuidanceTiming, TimingParameters),
}


def ladder_of(name: str, parameters: Mapping[str, Any]) -> Ladder:
    """What a request's `mitigation` asks for: one strategy, or `auto` for all in order of how much they change."""
    if name == AUTO:
        if parameters:
            raise InvalidRequestError("the strategy 'auto' takes no parameters", field="mitigation.parameters")
        return automatic_ladder()
    if name not in STRATEGIES:
        known = ", ".join([AUTO, *STRATEGIES])
        raise InvalidRequestError(f"there is no strategy of this name; there are {known}", field="mitigation.strategy")
    entry = STRATEGIES[name]
    try:
        typed = entry.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        raise _refused(error, entry.parameters) from error
    strategy: Strategy = entry.strategy(typed)
    return ((strategy,),)


def _refused(error: ValidationError, parameters: type[StrategyParameters]) -> InvalidRequestError:
    """The first thing wrong with the parameters; a name that is no parameter is the caller's text and is not repeated."""
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "extra_forbidden":
        known = ", ".join(parameters.model_fields)
        return InvalidRequestError(f"the strategy has no such parameter; it has {known}", field="mitigation.parameters")
    where = ".".join(str(part) for part in first["loc"])
    return InvalidRequestError(f"{where}: {first['msg']}", field=f"mitigation.parameters.{where}")
