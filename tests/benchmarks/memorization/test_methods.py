"""The methods are training jobs that the trainer's own body accepts, each of them once."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.memorization.methods import BASELINE, METHODS, PARTS, PUBLISHED, QUICK_METHODS, SETTINGS, UNTRAINED, Method, spec_of
from benchmarks.memorization.regime import FULL
from services.trainer.denoising_loss import Recipe


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_method_is_a_training_job_and_a_recipe(method: Method) -> None:
    for setting in method.settings:
        spec = spec_of(method, setting, FULL, 3)
        assert (spec.base is None) == (setting == "from scratch")
        assert (spec.seed, spec.batch_size, spec.text_encoder) == (3, FULL.batch, "frozen")
        assert spec.steps == FULL.steps
        assert Recipe.of(spec).steps == spec.steps
        for field, asked in method.asks.items():
            assert getattr(spec, field) is not None, f"{field} {asked}"


def test_no_name_and_no_job_comes_twice() -> None:
    assert max(Counter(method.name for method in METHODS).values()) == 1
    trained = [method for method in METHODS if method.name != UNTRAINED]
    for setting in SETTINGS:
        jobs = [spec_of(m, setting, FULL, 0).model_dump_json(exclude={"name"}) for m in trained if setting in m.settings]
        assert len(set(jobs)) == len(jobs)


def test_parts_are_those_of_the_denoiser_alone_and_published_is_all_but_the_references() -> None:
    assert set(PARTS) == {"attention", "bias and norm", "LoRA r=4", "SV-DIFF", "DiffFit"}
    assert set(PUBLISHED) == {method.name for method in METHODS} - {BASELINE, UNTRAINED}
    assert set(QUICK_METHODS) <= {method.name for method in METHODS}
