"""Prompt generalisation: give up the words that carry the score, fewest first, never a finding, its side or the view."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Final

from pydantic import Field

from services.mitigator.strategy import Plan, StrategyParameters, Workbench
from shared.imaging.prompts import describe_words, generalise
from shared.memorization.attribution import span_weights, token_gradients

NEGOTIABLE: Final = ("identifier", "age", "sex")  # what a prompt may lose without asking for another picture
WORDING: Final = "other"  # "chest radiograph of": tells nothing of the patient, so it goes last, and as a whole


class GeneralisationParameters(StrategyParameters):
    """How much may be given up."""

    everything: bool = Field(
        default=False, description="Give up all that is negotiable at once, not just as little as passes the screening."
    )
    wording: bool = Field(default=True, description="Whether, as a last resort, words that are neither finding, side nor view may go too.")


class PromptGeneralisation:
    """Attribution names the words that carry the score; they are dropped or generalised until the screening passes."""

    name: ClassVar[str] = "prompt_generalisation"
    summary: ClassVar[str] = "Drops or generalises the words that carry the score, fewest first; findings, sides and the view stay."
    paper: ClassVar[str] = "Wen et al., ICLR 2024 (token attribution); Lethe (generalisation along the words' kinds)"
    cost: ClassVar[str] = "n(F+B) for the attribution and n F for each candidate prompt, n the screening's seeds; at most 9 candidates"

    def __init__(self, parameters: GeneralisationParameters | None = None) -> None:
        """Defaults where nothing is asked for."""
        self.parameters = parameters or GeneralisationParameters()

    def apply(self, plan: Plan, bench: Workbench) -> Plan:
        """The plan with the least generalised prompt that passes, or with everything negotiable given up where none does."""
        forwards, units = 0, negotiable_units(plan.prompt)
        if len(units) > 1 and not self.parameters.everything:
            units = _heaviest_first(plan.prompt, units, bench)
            forwards += 3 * len(bench.screening_seeds)  # a forward and a backward pass a seed
        prompt = plan.prompt
        for candidates in self._rounds(plan.prompt, units):
            scores = bench.scores(bench.model.encode(candidates)).tolist()
            forwards += bench.screening_cost(len(candidates))
            passing = [candidate for candidate, score in zip(candidates, scores, strict=True) if score < bench.threshold]
            prompt = passing[0] if passing else candidates[scores.index(min(scores))]  # candidates come heaviest first
            if passing:
                break
        if prompt == plan.prompt:
            return plan
        changes = [f"gave up: {word}" for word in lost_words(plan.prompt, prompt)]
        return plan.changed(self.name, forwards=forwards, changes=changes, prompt=prompt, conditioning=bench.model.encode([prompt]))

    def _rounds(self, prompt: str, units: list[set[int]]) -> Iterator[list[str]]:
        """Candidate prompts by how many units they give up, heaviest first; the age's decade and the wording go last."""
        seen = {" ".join(prompt.split())}
        rounds = [[generalise(prompt, set().union(*chosen)) for chosen in combinations(units, count)] for count in range(1, len(units) + 1)]
        barest = rounds[-1][-1] if rounds else prompt
        rounds.append([generalise(barest, _of_kinds(barest, NEGOTIABLE))])
        if self.parameters.everything:
            rounds = rounds[-1:]
        if self.parameters.wording:
            rounds.append([generalise(rounds[-1][0], _of_kinds(rounds[-1][0], (WORDING,)))])
        for candidates in rounds:
            fresh = [candidate for candidate in dict.fromkeys(candidates) if candidate not in seen and candidate]
            seen.update(fresh)
            if fresh:
                yield fresh


def negotiable_units(prompt: str) -> list[set[int]]:
    """The positions of the words of each negotiable kind that the prompt has."""
    return [unit for kind in NEGOTIABLE if (unit := _of_kinds(prompt, (kind,)))]


def _heaviest_first(prompt: str, units: list[set[int]], bench: Workbench) -> list[set[int]]:
    """The units in the order of the most that a word of theirs carries of the score."""
    gradients = token_gradients(bench.model, [prompt], bench.screening_seeds, bench.cache)[0].cpu()
    weights = span_weights(bench.model, prompt, gradients, [(word.start, word.end) for word in describe_words(prompt)])
    return sorted(units, key=lambda unit: -max(weights[i] for i in unit))


def _of_kinds(prompt: str, kinds: tuple[str, ...]) -> set[int]:
    return {i for i, word in enumerate(describe_words(prompt)) if word.kind in kinds}


def lost_words(before: str, after: str) -> list[str]:
    """The words of `before` that `after` does not hold any more, in order."""
    remaining = [word.text.lower() for word in describe_words(after)]
    lost = []
    for word in describe_words(before):
        if word.text.lower() in remaining:
            remaining.remove(word.text.lower())
        else:
            lost.append(word.text)
    return lost
