"""A point that a search found, as a training of its own: on the same data and base, or on others with the same attention modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Space, modules_digest
from services.trainer.search.trial import Trial
from services.trainer.training_spec import FoundBy, TrainingSpec
from shared.errors import ConflictError, InvalidRequestError


def point_of(summary: Mapping[str, Any], trials: Sequence[Trial], number: int | None, search_id: str) -> Trial:
    """The trial of a number, or the recommended one; ConflictError where the search has none such yet."""
    if number is None:
        recommended = summary["recommended"]
        if recommended is None:
            raise ConflictError(f"{search_id} recommends no trial: none has come to its end yet, or none keeps the constraints.")
        number = int(recommended["trial"])
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None or trial.values is None:
        raise ConflictError(
            f"Trial {number} of {search_id} {'was not begun' if trial is None else f'is {trial.state}'}; apply one that succeeded."
        )
    return trial


def applied_training(search: SearchSpec, modules: Sequence[str], trial: Trial, wishes: Mapping[str, Any], search_id: str) -> TrainingSpec:
    """The search's training with the trial's choice, and what was wished instead; parameters are told by the modules' names."""
    found = Space.of(search, modules).training(trial.choice)
    told = found.model_dump(mode="json") | dict(wishes)
    told["parameters"] = _by_name(trial, modules)
    told["found_by"] = FoundBy(search=search_id, trial=trial.number).model_dump()
    try:
        return TrainingSpec.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise InvalidRequestError(str(first["msg"]), field=".".join(map(str, first["loc"]))) from error


def require_same_modules(modules: Sequence[str], found: Sequence[str] | None, base: str) -> None:
    """Refuse a base whose attention modules are others than those that were searched: the same bit would mean another module."""
    if found is None:
        raise InvalidRequestError(
            f"The config of {base} does not show its attention modules, so that nobody can tell whether they are those searched.",
            field="base",
        )
    if modules_digest(found) != modules_digest(modules):
        raise InvalidRequestError(
            f"The search chose among the attention modules {', '.join(modules)}; {base} has {', '.join(found) or 'none'}.", field="base"
        )


def _by_name(trial: Trial, modules: Sequence[str]) -> dict[str, Any]:
    """The parameters of a choice. LoRA's ranks stand in the order of the modules, whose names the caller compares."""
    choice = trial.choice
    if choice.ranks is not None:
        return {"kind": choice.kind, "ranks": choice.ranks}
    return {"kind": choice.kind, "blocks": [name for name, bit in zip(modules, choice.mask, strict=True) if bit]}
