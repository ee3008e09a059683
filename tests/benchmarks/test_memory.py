"""The memory benchmark: what the preflight says is close to what a training takes."""

from __future__ import annotations

import pytest

from benchmarks.memory import CASES, run_case


@pytest.mark.slow
def test_estimate_of_the_tiny_model_is_near_its_peak() -> None:
    assert CASES[0][0] == "tiny"
    row = run_case(0)
    assert 0.85 < row["estimate"] / row["peak"] < 1.35
