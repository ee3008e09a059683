"""What is done to a data set's films before anything is learnt from them: some are dropped, and prompts are scrubbed.

It follows from films and spec alone, so every process of a training, and every attempt at it, has the same films.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.trainer.deduplication import Dropped, deduplicate
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.imaging.scrubbing import scrub


@dataclass(frozen=True)
class Prepared:
    """Films to learn from, what was dropped of them if that was asked for, and what the metrics say of both."""

    films: TrainingSet
    dropped: Dropped | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def prepare(films: TrainingSet, spec: TrainingSpec) -> Prepared:
    """Drop and scrub what the spec says."""
    dropped: Dropped | None = None
    metrics: dict[str, Any] = {}
    if spec.deduplicate is not None:
        films, dropped = deduplicate(films, spec.deduplicate)
        metrics |= dropped.totals()
    if any(rule.kind == "scrub" for rule in spec.captions):
        prompts = scrubbed(films.prompts)
        pairs = list(zip(films.prompts, prompts, strict=True))
        metrics["scrubbed_prompts"] = sum(after != " ".join(before.split()) for before, after in pairs)
        metrics["emptied_prompts"] = sum(bool(before) and not after for before, after in pairs)
        films = replace(films, prompts=prompts)
    return Prepared(films, dropped, metrics)


def scrubbed(prompts: Sequence[str]) -> list[str]:
    """Prompts without what de-identification left in them; each distinct one is read once."""
    clean = {prompt: scrub(prompt) for prompt in dict.fromkeys(prompts)}
    return [clean[prompt] for prompt in prompts]
