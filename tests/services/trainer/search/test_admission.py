"""What a search must have before it is queued; the routes' tests meet every refusal once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.trainer.search.admission import admit_search, of_training, require_fitting_films
from services.trainer.search.search_spec import SearchSpec
from shared.errors import InvalidRequestError
from shared.jobs.records import JobStore
from shared.memorization.rewards.names import ENTRY_POINTS
from tests.services.trainer.search.bases import commit_base

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


def admit(home: StockedHome, catalog: Catalog, settings: dict[str, Any] | None = None, **told: Any) -> None:
    training = {"name": "find", "dataset": home.dataset.id, "base": home.model.id, "steps": 100}
    spec = SearchSpec.model_validate({"training": training, "space": "svdiff"} | told)
    jobs = JobStore.open(home.settings)
    try:
        admit_search(spec, catalog=catalog, jobs=jobs, settings=home.settings.model_copy(update=settings or {}))
    finally:
        jobs.close()


def test_trials_at_once_need_slots_here_and_none_on_a_cluster(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    admit(stocked_home, stocked_catalog, {"job_slots": 2}, parallel=2)
    with pytest.raises(InvalidRequestError, match="2 trials at once need as many slots, and there are 1"):
        admit(stocked_home, stocked_catalog, parallel=2)
    admit(stocked_home, stocked_catalog, {"ray_address": "head:6379"}, parallel=2)


def test_rewards_of_installed_distributions_are_let_in(
    stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequestError, match="no reward sharpness"):
        admit(stocked_home, stocked_catalog, objectives=["sharpness"])
    folder = tmp_path / "ward_rewards-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-rewards\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nsharpness = nowhere:Sharpness\n")
    monkeypatch.syspath_prepend(tmp_path)
    admit(stocked_home, stocked_catalog, objectives=["sharpness"])


def test_autoencoder_of_colours_takes_films(stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path) -> None:
    for channels in (1, 3):
        base = commit_base(stocked_catalog, stocked_home.model, tmp_path / str(channels), in_channels=channels)
        require_fitting_films(stocked_catalog.get("model", base), stocked_home.dataset, stocked_catalog)


def test_base_whose_config_shows_no_modules_is_left_to_the_job(stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path) -> None:
    unet = {"down_block_types": ["DownBlock2D", "SomeOtherBlock2D"]}
    base = commit_base(stocked_catalog, stocked_home.model, tmp_path / "other", unet=unet)
    training = {"name": "find", "dataset": stocked_home.dataset.id, "base": base, "steps": 100}
    admit(stocked_home, stocked_catalog, training=training)


def test_fields_of_a_training_are_named_where_the_body_has_them() -> None:
    for field, named in (("base", "training.base"), (None, None)):
        with pytest.raises(InvalidRequestError) as refused, of_training():
            raise InvalidRequestError("no", field=field)
        assert refused.value.field == named
