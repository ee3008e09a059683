"""The names of rewards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.memorization.rewards.names import BUILT_IN, ENTRY_POINTS, MEMORIZATION, QUALITY, known_rewards
from tests.fixtures.processes import ROOT


def test_each_name_has_a_direction_and_one_aspect() -> None:
    assert set(BUILT_IN.values()) == {"minimize", "maximize"}
    assert not MEMORIZATION.keys() & QUALITY.keys()
    assert [name for name, direction in MEMORIZATION.items() if direction == "maximize"] == ["amd"]


def test_names_of_installed_distributions_are_known_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ward_rewards-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-rewards\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nsharpness = a_module_that_is_not_there:Sharpness\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert known_rewards() == [*BUILT_IN, "sharpness"]


def test_names_come_without_a_tensor_library() -> None:
    code = "import sys; import shared.memorization.rewards.names, shared.memorization.rewards.effort; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
