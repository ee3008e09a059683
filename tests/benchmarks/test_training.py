"""The training benchmark measures as many steps of either loop."""

from __future__ import annotations

import pytest

from benchmarks import training
from benchmarks.material import phantom_films, random_model
from benchmarks.training import bare_steps, our_steps


def test_both_loops_count_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 2)
    films = phantom_films(4, 0).training_set()
    model = random_model(films.prompts, 0)
    ours, bare = our_steps(model, films, 4, 0), bare_steps(model, 4, 0)
    assert len(ours) == len(bare) == 2
    assert min(*ours, *bare) > 0
