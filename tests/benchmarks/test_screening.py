"""The screening benchmark measures what it says."""

from __future__ import annotations

import pytest

from benchmarks.material import phantom_films, random_model
from benchmarks.screening import measure
from tests.denoisers import counted_forwards


@pytest.mark.parametrize("seeds_per_prompt", [1, 2])
def test_screening_and_bare_forward_run_the_same_rows(seeds_per_prompt: int) -> None:
    prompts = phantom_films(4, 0).prompts[:3]
    model = random_model(prompts, 0)
    with counted_forwards(model) as seen:
        row = measure(model, prompts, seeds_per_prompt, repeats=2, seed=0)
    rounds = 2 * (3 + 2)  # of each kind, three to warm up and two that count
    assert (seen.conditional, seen.unconditional) == (rounds * 3 * seeds_per_prompt, seeds_per_prompt)
    assert row["prompts_per_second"] == pytest.approx(3 / row["screening_seconds"]["median"])
    assert row["ratio"]["n"] == 2
