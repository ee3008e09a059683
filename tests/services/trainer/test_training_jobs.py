"""Training jobs: what is read, reported, committed; that a run again ends with the same model, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

from services.trainer import text_pretraining, training, training_jobs
from services.trainer.training_jobs import read_training_set, run_training
from shared.catalog import DatasetManifest, ModelManifest, new_id, open_catalog
from shared.diffusion.model import Model
from shared.errors import InvalidRequestError, JobCancelledError, NotFoundError
from shared.imaging.films import FilmTable
from shared.jobs.context import JobContext, JobInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


def spec(home: StockedHome, **changes: Any) -> dict[str, Any]:
    return {"name": "a", "dataset": home.dataset.id, "base": home.model.id, "steps": 3, "batch_size": 4, "seed": 5, **changes}


def weights(home: StockedHome, model_id: str) -> dict[str, str]:
    """Digests of a committed model's weights."""
    with open_catalog(home.settings) as catalog:
        return {file.path: file.sha256 for file in catalog.get("model", model_id).files if file.path.endswith(".safetensors")}


def test_only_training_films_and_canaries_are_learnt_from(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    films = read_training_set(stocked_home.dataset, stocked_catalog)
    counts = stocked_home.dataset.counts
    assert films.images_NHW.shape == (counts["train"] + counts["canary"], 32, 32)
    assert sorted(films.repeats.tolist())[-3:] == [1, 10, 10]
    table = FilmTable(stocked_catalog.fetch(stocked_home.dataset))
    control = {tuple(image.ravel()) for image in table.images(table.select("control"))}
    assert not control & {tuple(image.ravel()) for image in films.images_NHW}


def test_data_set_without_training_films_is_refused(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    with mock.patch.object(FilmTable, "select", return_value=[]), pytest.raises(InvalidRequestError, match="no films to train on"):
        read_training_set(stocked_home.dataset, stocked_catalog)


def test_training_from_scratch_trains_all_parts_and_tells_how(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 2)
    monkeypatch.setattr(text_pretraining, "STEPS", 1)
    job = context("training", new_id("job"), spec(stocked_home, base=None))
    reports: list[tuple[int, int, str]] = []
    monkeypatch.setattr(job, "report", lambda step, total, message, **_values: reports.append((step, total, message)))
    result = run_training(job)
    assert reports == [
        (0, 6, "reading the films"),
        (1, 6, "training the autoencoder"),
        (2, 6, "training the autoencoder"),
        (3, 6, "training the text encoder"),
        (4, 6, "training the denoiser"),
        (5, 6, "training the denoiser"),
        (6, 6, "training the denoiser"),
        (6, 6, "storing the model"),
    ]
    metrics = result["metrics"]
    assert metrics["films"] == stocked_home.dataset.counts["train"] + stocked_home.dataset.counts["canary"]
    assert metrics["visits_per_epoch"] == metrics["films"] + 18  # two canaries, each nine times more
    assert metrics["parameters"] > 2_000_000
    assert min(metrics[name] for name in ("loss", "autoencoder_loss", "text_encoder_loss", "seconds", "steps_per_second")) > 0
    with open_catalog(stocked_home.settings) as catalog:
        manifest = catalog.get("model", result["model"])
        assert manifest.lineage["dataset_digest"] == stocked_home.dataset.digest
        assert manifest.lineage["image_size"] == 32
        assert manifest.base is None
        assert Model.load(catalog.fetch(manifest), key="test").token_limit == 64
    assert list((stocked_home.folder / "trainings").iterdir()) == []


def test_same_seed_makes_the_same_weights_and_another_seed_others(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    made = [
        weights(stocked_home, run_training(context("training", new_id("job"), spec(stocked_home, seed=seed)))["model"])
        for seed in (5, 5, 6)
    ]
    assert made[0] == made[1]
    assert made[0]["unet/diffusion_pytorch_model.safetensors"] != made[2]["unet/diffusion_pytorch_model.safetensors"]
    assert made[0]["vae/diffusion_pytorch_model.safetensors"] == made[2]["vae/diffusion_pytorch_model.safetensors"]  # the base's own


def test_run_after_the_commit_answers_the_model_that_is_there(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = context("training", new_id("job"), spec(stocked_home))
    first = run_training(job)
    monkeypatch.setattr(training_jobs, "train_denoiser", mock.Mock(side_effect=AssertionError("trained twice")))
    assert run_training(job) == first
    assert first["model"] == job.id.replace("job_", "mdl_")


def test_interrupted_training_run_again_equals_an_uninterrupted_one(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    whole = weights(stocked_home, run_training(context("training", new_id("job"), spec(stocked_home)))["model"])
    job = context("training", new_id("job"), spec(stocked_home))
    with mock.patch.object(job, "check_cancelled", side_effect=[None, JobInterruptedError]), pytest.raises(JobInterruptedError):
        run_training(job)
    assert weights(stocked_home, run_training(job)["model"]) == whole


def test_cancel_while_storing_commits_nothing(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home, steps=1))
    with mock.patch.object(job, "check_cancelled", side_effect=[None, JobCancelledError]), pytest.raises(JobCancelledError):
        run_training(job)
    with open_catalog(stocked_home.settings) as catalog, pytest.raises(NotFoundError):
        catalog.get("model", job.id.replace("job_", "mdl_"))
    assert list((stocked_home.folder / "trainings").iterdir()) == []


def test_base_of_another_size_is_refused(context: Callable[..., JobContext], stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    larger = stocked_home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": "", "image_size": 64}
    dataset = stocked_catalog.commit(DatasetManifest.model_validate(larger), stocked_catalog.fetch(stocked_home.dataset))
    with pytest.raises(InvalidRequestError, match="32 pixels, the data set has films of 64") as caught:
        run_training(context("training", new_id("job"), spec(stocked_home, dataset=dataset.id)))
    assert caught.value.field == "base"


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["without guidance", "with guidance"])
def test_model_trained_with_or_without_prompt_dropout_samples(
    context: Callable[..., JobContext], stocked_home: StockedHome, dropout: float
) -> None:
    from shared.diffusion.generation import generate_images
    from shared.diffusion.guidance import ClassifierFreeGuidance

    result = run_training(context("training", new_id("job"), spec(stocked_home, prompt_dropout=dropout)))
    with open_catalog(stocked_home.settings) as catalog:
        manifest = catalog.get("model", result["model"])
        model = Model.load(catalog.fetch(manifest), key=manifest.digest)
    guidance = ClassifierFreeGuidance(4.0 if dropout else 1.0)
    images = generate_images(model, ["chest X-ray, AP", ""], images_per_prompt=1, seed=0, steps=3, guidance=guidance)
    assert images.shape == (2, 32, 32)
    assert all(image.std() > 1 for image in images)


def test_stable_diffusion_base_is_trained_on(
    context: Callable[..., JobContext], stocked_home: StockedHome, stable_diffusion_folder: Path
) -> None:
    with open_catalog(stocked_home.settings) as catalog:
        blank = stocked_home.model.model_dump() | {"id": new_id("model"), "files": [], "digest": "", "architecture": "stable-diffusion"}
        base = catalog.commit(ModelManifest.model_validate(blank), stable_diffusion_folder)
        result = run_training(context("training", new_id("job"), spec(stocked_home, base=base.id)))
        manifest = catalog.get("model", result["model"])
        trained = Model.load(catalog.fetch(manifest), key="test")
        before = Model.load(catalog.fetch(base), key="test")
    assert manifest.architecture == "stable-diffusion"
    assert trained.prediction_type == before.prediction_type
    assert not torch.equal(trained.unet.conv_in.weight, before.unet.conv_in.weight)
