"""The material of a seed: the other site has other films, and what is on disk is read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from benchmarks.memorization import material
from benchmarks.memorization.material import drawn_films, films_of_others, open_material
from benchmarks.memorization.regime import Regime
from services.trainer import text_pretraining, training
from shared.memorization import galleries

if TYPE_CHECKING:
    from pathlib import Path

REGIME = Regime(patients=30, others=12, canaries=2, repeats=3, base_steps=2)


def test_others_are_no_patients_of_ours_and_the_other_site_sees_the_same_ones_differently() -> None:
    ours = drawn_films(REGIME, 1).training_set()
    here, elsewhere = films_of_others(REGIME, 1)
    assert here.images_NHW.shape == elsewhere.images_NHW.shape
    assert here.prompts == elsewhere.prompts
    for theirs in (here, elsewhere):
        assert theirs.images_NHW.shape[1:] == ours.images_NHW.shape[1:] == (32, 32)
        assert not any(np.array_equal(one, other) for one in ours.images_NHW for other in theirs.images_NHW)
        assert set(theirs.repeats) == {1}
    assert set(ours.repeats) == {1, 3}
    assert elsewhere.images_NHW.min() >= round(0.15 * 255)
    assert elsewhere.images_NHW.max() <= round(0.85 * 255)
    middle = here.images_NHW[:, 8:-8, 8:-8].astype(float).mean((1, 2))
    assert np.corrcoef(middle, elsewhere.images_NHW.astype(float).mean((1, 2)))[0, 1] > 0.5


def test_material_is_made_once_and_read_back_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "EMBEDDER_STEPS", 2)
    monkeypatch.setattr(galleries, "READER_STEPS", 2)
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 2)
    monkeypatch.setattr(text_pretraining, "STEPS", 2)
    first = open_material(REGIME, 1, tmp_path / "made")
    kept = {path: path.read_bytes() for path in (tmp_path / "made").rglob("*") if path.is_file()}
    monkeypatch.delattr(material, "fit_and_judge")  # would be missed if anything were made again
    again = open_material(REGIME, 1, tmp_path / "made")
    assert {path: path.read_bytes() for path in kept} == kept
    assert torch.equal(first.gallery.codes.copy_ND, again.gallery.codes.copy_ND)
    same = [torch.equal(a, b) for a, b in zip(first.untrained.unet.parameters(), first.base.unet.parameters(), strict=True)]
    assert not all(same)
    for part in ("vae", "text_encoder"):
        pairs = zip(getattr(first.untrained, part).parameters(), getattr(first.base, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert json.loads((tmp_path / "made/facts.json").read_text())["films"]["train"] == len(first.films.learnt)


def test_half_made_material_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/embedder.safetensors").write_bytes(b"half")
    monkeypatch.setattr(material, "fit_and_judge", lambda *_what: (_ for _ in ()).throw(RuntimeError("made anew")))
    with pytest.raises(RuntimeError, match="made anew"):
        open_material(REGIME, 1, tmp_path / "made")
    assert not (tmp_path / "made/embedder.safetensors").exists()
