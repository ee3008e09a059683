"""The methods are training jobs that the trainer's own body accepts, each of them once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.memorization.methods import (
    BASELINE,
    COMBINATIONS,
    METHODS,
    PARTS,
    PUBLISHED,
    QUICK_METHODS,
    SETTINGS,
    SMALL_BATCHES,
    UNTRAINED,
    Method,
    spec_of,
)
from benchmarks.memorization.regime import FULL
from services.trainer.denoising_loss import Recipe


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_method_is_a_training_job_and_a_recipe(method: Method) -> None:
    for setting in method.settings:
        spec = spec_of(method, setting, FULL, 3)
        assert (spec.base is None) == (setting == "from scratch")
        assert (spec.seed, spec.text_encoder) == (3, "frozen")
        assert spec.steps * spec.batch_size == FULL.steps * FULL.batch
        if spec.ensemble is not None:
            assert spec.steps // spec.ensemble.shards == FULL.steps  # of each shard, as many as plain training takes
        assert Recipe.of(spec).steps == spec.steps
        told = spec.model_dump(mode="json")
        for field, asked in method.asks.items():
            assert _holds(told[field], asked), f"{field} {asked}"


def _holds(told: Any, asked: Any) -> bool:
    """Whether everything that was asked for is told so."""
    if isinstance(asked, dict):
        return all(_holds(told[name], value) for name, value in asked.items())
    if isinstance(asked, list):
        return len(told) == len(asked) and all(map(_holds, told, asked))
    return bool(told == asked)


def test_no_name_and_no_job_comes_twice() -> None:
    assert max(Counter(method.name for method in METHODS).values()) == 1
    trained = [method for method in METHODS if method.name != UNTRAINED]
    for setting in SETTINGS:
        jobs = [spec_of(m, setting, FULL, 0).model_dump_json(exclude={"name"}) for m in trained if setting in m.settings]
        assert len(set(jobs)) == len(jobs)


def test_parts_and_published_methods_stand_alone() -> None:
    assert set(PARTS) == {"attention", "bias and norm", "LoRA r=4", "SV-DIFF", "DiffFit"}
    assert set(PUBLISHED).isdisjoint({BASELINE, SMALL_BATCHES, UNTRAINED, *(method.name for method in COMBINATIONS)})
    assert len(PUBLISHED) + len(COMBINATIONS) + 3 == len(METHODS)
    assert set(QUICK_METHODS) <= {method.name for method in METHODS}


def test_each_setting_has_two_combinations() -> None:
    for setting in SETTINGS:
        assert sum(setting in method.settings for method in COMBINATIONS) == 2
