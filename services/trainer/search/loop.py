"""The one loop of a search: numbers and choices are given out, rungs judged, trials settled; who trains is the caller's affair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.trainer.search.rules import Rules
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Space
from services.trainer.search.suggestions import suggest
from services.trainer.search.summary import summarise
from services.trainer.search.trial import Rung, Trial
from services.trainer.search.verdicts import goes_on_by
from shared.memorization.rewards.names import Direction
from shared.memorization.statistics import Estimate


class SearchLoop:
    """Over the trials so far, which may come from records: the same trials always go on the same way."""

    def __init__(
        self,
        space: Space,
        spec: SearchSpec,
        directions: Mapping[str, Direction],
        trials: Iterable[Trial] = (),
        *,
        max_steps: int | None = None,
    ) -> None:
        """Directions are those of the rewards that are objectives; `max_steps` bounds the training steps of all trials together."""
        self.space = space
        self.rules = Rules.of(spec, directions)
        self._steps_each = spec.training.steps
        self._max_steps = max_steps
        self._trials = {trial.number: trial for trial in trials}

    @property
    def trials(self) -> list[Trial]:
        """All trials whose numbers were given out, by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    def next_trial(self) -> Trial | None:
        """A new trial, running from now on; None when trials or steps are used up, or nothing is left that was not tried."""
        if len(self._trials) >= self.rules.trials or self._is_spent():
            return None
        choice = suggest(self.space, self.trials, self.rules)
        if choice is None:
            return None
        trial = Trial(number=len(self._trials), choice=choice)
        self._trials[trial.number] = trial
        return trial

    def verdict(self, number: int, step: int, values: Mapping[str, Estimate]) -> bool:
        """Whether a trial goes on from a rung, where it measured these values; they are kept for those that come after it."""
        others = [trial for trial in self.trials if trial.number != number]
        trial = self._trials[number]
        rungs = [rung for rung in trial.rungs if rung.step != step]
        self._trials[number] = trial.model_copy(update={"rungs": [*rungs, Rung(step=step, values=dict(values))]})
        return goes_on_by(self.rules, values, [rung.values for other in others for rung in other.rungs if rung.step == step])

    def settle(self, trial: Trial) -> None:
        """A trial is over, or known better: it takes the place of what was known under its number."""
        if trial.number not in self._trials:
            raise ValueError(f"number {trial.number} was never given out")
        self._trials[trial.number] = trial

    def summary(self, *, base: Mapping[str, Estimate] | None = None, floors: Mapping[str, float] | None = None) -> dict[str, Any]:
        """What the search found so far, beside what the untuned base and real films score where that was measured."""
        return summarise(self.space, self.rules, self.trials, base=base, floors=floors)

    def _is_spent(self) -> bool:
        """Whether the steps taken, and those that running trials may yet take, use up what all may take."""
        if self._max_steps is None:
            return False
        return sum(self._steps_each if trial.state == "running" else trial.steps for trial in self.trials) >= self._max_steps
