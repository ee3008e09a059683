"""How a measurement is summed up and kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks import results
from benchmarks.results import keep, shown, spread

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_spread_is_not_moved_by_one_slow_round() -> None:
    values = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert values == {"median": 3.0, "low": 2.0, "high": 4.0, "fastest": 1.0, "n": 5}
    assert shown(values, 1000, 0) == "3000 (2000-4000)"


def test_kept_figures_name_seed_machine_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "bench")
    content = json.loads(keep("demo", seed=3, settings={"repeats": 2}, figures={"ratio": 1.1}).read_text())
    assert (content["benchmark"], content["seed"], content["figures"]) == ("demo", 3, {"ratio": 1.1})
    assert content["machine"]["cores"] >= 1
    assert set(content["versions"]) == {"lethe", "torch", "diffusers", "transformers", "numpy"}
