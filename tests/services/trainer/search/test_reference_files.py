"""What a search's trials are measured against: made once, with the gallery that is there, and read as it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from services.trainer.search.reference_files import Baselines, ReferenceFiles
from shared.memorization import galleries
from shared.memorization.galleries import gallery_of
from shared.memorization.rewards.effort import Effort
from shared.memorization.rewards.reference import Reference
from shared.storage import DirectoryStore, open_store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from shared.catalog import Catalog
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome

EFFORT = Effort(control_prompts=3)


def make(files: ReferenceFiles, home: StockedHome, catalog: Catalog) -> list[str]:
    """Make it; answers what was said on the way."""
    said: list[str] = []
    files.make(home.dataset, EFFORT, catalog=catalog, settings=home.settings, report=lambda *told: said.append(told[2]))
    return said


def test_reference_is_read_as_it_was_made_and_made_once(judging_home: JudgingHome, judging_catalog: Catalog, tmp_path: Path) -> None:
    home, store = judging_home.stocked, open_store(judging_home.settings)
    files = ReferenceFiles(store, "job_1", tmp_path / "scratch")
    with mock.patch.object(Reference, "of", side_effect=Reference.of) as made:
        assert [make(files, home, judging_catalog), make(files, home, judging_catalog)] == [[], []]
    assert made.call_count == 1
    first = files.read(home.dataset, catalog=judging_catalog)
    assert first.gallery.id == judging_home.gallery.id
    assert len(first.controls.records) == 3
    assert len(first.canaries.records) == home.dataset.counts["canary"]
    again = ReferenceFiles(store, "job_2", tmp_path / "scratch")
    make(again, home, judging_catalog)
    second = again.read(home.dataset, catalog=judging_catalog)
    assert np.array_equal(first.real_features_ND, second.real_features_ND)
    assert (first.floors, first.edge_limit, first.controls.records) == (second.floors, second.edge_limit, second.controls.records)
    assert not list((tmp_path / "scratch").iterdir())


def test_baselines_are_read_as_they_were_kept(tmp_path: Path) -> None:
    files = ReferenceFiles(DirectoryStore(tmp_path / "store"), "job_1", tmp_path / "scratch")
    assert files.baselines() is None
    files.keep_baselines(found := Baselines(base={"fid": {"value": 2.5, "low": 2.0, "high": 3.0, "n": 4}}, floors={"fid": 1.5}))
    assert files.baselines() == found


def test_data_set_without_a_gallery_gets_one_for_all_to_use(
    stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(galleries, "EMBEDDER_STEPS", 2)
    monkeypatch.setattr(galleries, "READER_STEPS", 2)
    files = ReferenceFiles(open_store(stocked_home.settings), "job_1", tmp_path / "scratch")
    assert "training the site embedder" in make(files, stocked_home, stocked_catalog)
    manifest = gallery_of(stocked_catalog, stocked_home.dataset.id)
    assert manifest is not None
    assert manifest.id == "gal_1"
    assert files.read(stocked_home.dataset, catalog=stocked_catalog).gallery.id == "gal_1"
