"""The coexistence benchmark reads its workers' notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.coexistence import _rounds, percentiles

if TYPE_CHECKING:
    from pathlib import Path


def test_round_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("10.5 0.25\n11.0 0.5\n11.4 0.")
    assert _rounds(tmp_path / "notes") == [(10.5, 0.25), (11.0, 0.5)]


def test_percentiles_are_the_middle_and_the_slow_end() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50.0, "p95": pytest.approx(95.0), "n": 101}
