"""Searches that are over, without any training: trials by a formula, some of them pruned, failed or running."""

from __future__ import annotations

from typing import Any

from services.trainer.search.loop import SearchLoop
from services.trainer.search.space import Space
from services.trainer.search.trial import Rung, Trial
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, estimates, searched, spec_of, toy_rewards

Found = tuple[dict[str, Any], list[Trial]]


def finished(*, modules: list[str] = MODULES, trials: int = 12, **told: Any) -> Found:
    """Summary and trials of a search; the last three trials are pruned, failed and running."""
    spec = spec_of(trials=trials, **told)
    loop = SearchLoop(Space.of(spec, modules), spec, DIRECTIONS)
    *_, pruned, failed, running = searched(loop, toy_rewards(len(modules)))
    values = {name: pruned.figures()[name] for name in spec.objectives}
    nothing: dict[str, Any] = {"values": None, "steps": 30}
    rung = Rung(step=30, values=estimates(values))
    loop.settle(pruned.model_copy(update=nothing | {"state": "pruned", "rungs": [rung]}))
    loop.settle(failed.model_copy(update=nothing | {"state": "failed", "reason": "The loss of step 17 is not a number."}))
    loop.settle(running.model_copy(update=nothing | {"state": "running"}))
    return loop.summary(), loop.trials
