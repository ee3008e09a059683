"""The benchmark of checkpoints measures as many of them as there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import resume
from benchmarks.resume import stall_figures

if TYPE_CHECKING:
    from pathlib import Path


def test_steps_with_and_without_checkpoints_are_measured_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "BATCH", 2)
    monkeypatch.setattr(resume, "FOLDER", tmp_path)
    figures = stall_figures(rounds=1, steps=5, every=2, seed=0)
    assert (figures["kept_step_seconds"]["n"], figures["plain_step_seconds"]["n"]) == (1, 1)
    assert 1 <= figures["stall_seconds"]["n"] <= 2  # the second one may still travel when the last step is told
    assert figures["stall_seconds"]["median"] > 0
    assert figures["restore_seconds"]["median"] > 0
    assert figures["checkpoint_bytes"] > 10_000_000
    assert list(tmp_path.iterdir()) == []
