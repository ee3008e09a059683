"""Sites: other anatomies, seeds and regimes lie apart, and what nothing is chosen by is measured on the other fold."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.memcontrol import site as module
from benchmarks.memcontrol.knees import knee_films
from benchmarks.memcontrol.site import PHANTOMS, Site, modules_of, reference_of
from tests.benchmarks.memcontrol.made_up import site_in
from tests.denoisers import tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def test_folders_are_apart_and_material_is_common_to_regimes_that_train_differently(tmp_path: Path) -> None:
    site = site_in(tmp_path)
    others = [replace(site, anatomy="knee"), replace(site, seed=1), replace(site, regime=replace(site.regime, steps=11))]
    assert len({each.home for each in (site, *others)}) == 4
    assert [each.material_folder == site.material_folder for each in others] == [False, False, True]
    assert PHANTOMS["knee"] is knee_films


def test_held_out_prompts_and_real_films_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = knee_films(20, 0, canaries=2, repeats=3, control_fraction=0.5, image_size=16)
    asked: list[Any] = []
    monkeypatch.setattr(module, "material_of", lambda _site: SimpleNamespace(films=films, gallery=None, base=tiny_model()))
    monkeypatch.setattr(module, "Reference", SimpleNamespace(of=lambda *told: asked.append(told)))
    site = Site("knee", 3, site_in(tmp_path).regime, tmp_path / "references")
    for held_out in (False, True):
        reference_of(site, held_out=held_out)
    (_, canaries, controls, others, training, effort), (_, again, controls_again, others_again, _, effort_again) = asked
    assert controls.records == others_again.records == films.select("control", "calibration")
    assert others.records == controls_again.records == films.select("control", "evaluation")
    assert canaries.records == again.records == films.select("canary")
    assert training.records == films.learnt
    assert effort.seed != effort_again.seed
    assert modules_of(site)[1] == "mid_block.attentions.0"
