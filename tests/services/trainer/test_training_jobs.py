"""Training jobs: what is read, reported, committed; that a run again ends with the same model, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from services.trainer import text_pretraining, training, training_jobs, validation_strip
from services.trainer.deduplication import DROPPED_NAME
from services.trainer.denoising_loss import DenoisingLoss
from services.trainer.ensemble.shard_spec import shard_folder, shard_job_id
from services.trainer.parameters.deltas import DELTAS_NAME
from services.trainer.parameters.kinds import AnyParameters
from services.trainer.parameters.selection import select_parameters
from services.trainer.skip_counts import SKIPS_NAME
from services.trainer.training_jobs import read_training_set, run_training
from shared.catalog import DatasetManifest, ModelManifest, new_id, open_catalog
from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.errors import InvalidRequestError, JobCancelledError, NotFoundError, UnavailableError
from shared.imaging.films import FilmTable
from shared.jobs.context import JobContext, JobInterruptedError
from shared.jobs.records import JobStore
from shared.jobs.runner import STOP_GRACE
from shared.storage import DirectoryStore, open_store, patience
from tests.fixtures.processes import ROOT
from tests.services.trainer.conftest import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.trainer.training_set import TrainingSet
    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome
    from tests.services.trainer.conftest import Jobs

pytestmark = pytest.mark.anyio


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
    facts = [table.facts[record] for record in films.records]
    names = {code: fact.patient for code, fact in zip(films.patients.tolist(), facts, strict=True)}
    assert [names[code] for code in films.patients] == [fact.patient for fact in facts]
    assert len(set(names.values())) == len(names)
    assert films.strata == [", ".join(name for name, value in fact.labels.items() if value == 1) for fact in facts]
    assert len(set(films.strata)) > 2


def test_data_set_without_training_films_is_refused(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    with mock.patch.object(FilmTable, "select", return_value=[]), pytest.raises(InvalidRequestError, match="no films to train on"):
        read_training_set(stocked_home.dataset, stocked_catalog)


def test_model_says_which_films_its_filter_left_out(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    wish = {"batch_filter": {"kind": "magnitude", "quantile": 0.5}, "prompt_dropout": 0.0}
    result = run_training(context("training", new_id("job"), spec(stocked_home, **wish)))
    metrics = result["metrics"]
    assert (metrics["visited_samples"], metrics["skipped_samples"]) == (12, 6)  # 3 steps of 4, the upper half of each
    with open_catalog(stocked_home.settings) as catalog:
        folder = catalog.fetch(catalog.get("model", result["model"]))
        records = set(FilmTable(catalog.fetch(stocked_home.dataset)).select("train", "canary"))
    table = pq.read_table(folder / SKIPS_NAME).to_pydict()
    assert set(table["record"]) <= records
    assert (sum(table["visits"]), sum(table["skips"])) == (12, 6)
    assert metrics["skipped_films"] == sum(skips > 0 for skips in table["skips"])
    Model.load(folder, key="a")


def test_model_says_what_was_dropped_before_anything_was_learnt(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    wish = {"deduplicate": {"films_per_patient": 1}, "captions": [{"kind": "scrub"}, {"kind": "multiple", "count": 5}]}
    wish |= {"batch_filter": {"kind": "anti_gradient"}, "steps": 12}
    result = run_training(context("training", new_id("job"), spec(stocked_home, **wish)))
    metrics = result["metrics"]
    with open_catalog(stocked_home.settings) as catalog:
        folder = catalog.fetch(catalog.get("model", result["model"]))
        films = FilmTable(catalog.fetch(stocked_home.dataset))
    records = films.select("train", "canary")
    patients = dict(zip(records, films.column("patient", records), strict=True))
    dropped = pq.read_table(folder / DROPPED_NAME).to_pylist()
    beyond = {row["record"] for row in dropped if row["reason"] == "beyond_cap"}
    repeated = {row["record"] for row in dropped if row["reason"] == "repeats"}
    assert len(dropped) == len(beyond) + len(repeated)
    assert len(beyond) == metrics["dropped_beyond_cap"] == len(records) - len(set(patients.values())) > 0
    assert repeated == set(films.select("canary")) - beyond != set()
    assert metrics["dropped_repeats"] == 9 * len(repeated)  # canaries are shown ten times
    assert metrics["films"] == metrics["visits_per_epoch"] == len(set(patients.values()))
    assert metrics["scrubbed_prompts"] == 0
    assert 1 < metrics["captions_per_film"] <= 5
    learnt = set(pq.read_table(folder / SKIPS_NAME).column("record").to_pylist())
    assert not learnt & beyond
    assert len({patients[record] for record in learnt}) == len(learnt) > 10


def test_prompts_are_scrubbed_before_a_tokenizer_is_learnt_from_them(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 1)
    monkeypatch.setattr(text_pretraining, "STEPS", 1)

    def marked(dataset: DatasetManifest, catalog: Catalog) -> TrainingSet:
        films = read_training_set(dataset, catalog)
        return replace(films, prompts=[f"___ {prompt}" for prompt in films.prompts])

    monkeypatch.setattr(training_jobs, "read_training_set", marked)

    def vocabulary(**wish: Any) -> tuple[set[str], dict[str, Any]]:
        result = run_training(context("training", new_id("job"), spec(stocked_home, base=None, steps=1, **wish)))
        with open_catalog(stocked_home.settings) as catalog:
            return set(Model.load(catalog.fetch(catalog.get("model", result["model"])), key="a").tokenizer.get_vocab()), result["metrics"]

    plain, _ = vocabulary()
    clean, metrics = vocabulary(captions=[{"kind": "scrub"}])
    assert any("___" in token for token in plain)
    assert not any("___" in token for token in clean)
    assert metrics["scrubbed_prompts"] == metrics["films"]
    several, _ = vocabulary(captions=[{"kind": "scrub"}, {"kind": "multiple"}])
    assert "enlargement</w>" in several - plain


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


def test_interrupted_training_with_filter_captions_and_timesteps_run_again_equals_an_uninterrupted_one(
    context: Callable[..., JobContext], stocked_home: StockedHome
) -> None:
    kinds = ("random_caption", "random_tokens", "word_repetition")
    wishes = spec(
        stocked_home,
        deduplicate={"films_per_patient": 2},
        batch_filter={"kind": "magnitude", "quantile": 0.5},
        captions=[
            {"kind": "scrub"},
            {"kind": "multiple"},
            *({"kind": kind, "probability": 0.5} for kind in kinds),
            {"kind": "embedding_noise"},
        ],
        timesteps="u_shaped",
    )

    def files(model_id: str) -> dict[str, str]:
        with open_catalog(stocked_home.settings) as catalog:
            lists = {f.path: f.sha256 for f in catalog.get("model", model_id).files if f.path in {SKIPS_NAME, DROPPED_NAME}}
        assert len(lists) == 2
        return weights(stocked_home, model_id) | lists

    whole = files(run_training(context("training", new_id("job"), wishes))["model"])
    job = context("training", new_id("job"), wishes)
    with mock.patch.object(job, "check_cancelled", side_effect=[None, JobInterruptedError]), pytest.raises(JobInterruptedError):
        run_training(job)
    assert files(run_training(job)["model"]) == whole


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


@pytest.mark.parametrize("kind", ["full", "svdiff", "lora"])
def test_manifest_tells_how_much_learnt(context: Callable[..., JobContext], stocked_home: StockedHome, kind: str) -> None:
    wishes = spec(stocked_home, parameters={"kind": kind}, text_encoder="frozen")
    result = run_training(context("training", new_id("job"), wishes))
    with open_catalog(stocked_home.settings) as catalog:
        manifest = catalog.get("model", result["model"])
        trained, base = (Model.load(catalog.fetch(one), key="test") for one in (manifest, stocked_home.model))
        kept = load_file(catalog.fetch(manifest) / DELTAS_NAME) if kind != "full" else {}
    whole = sum(p.numel() for p in base.unet.parameters())
    learnt = select_parameters(base.unet, TypeAdapter(AnyParameters).validate_python({"kind": kind})).count
    assert (manifest.metrics["method"], manifest.metrics["trainable_parameters"]) == (kind, learnt)
    assert manifest.metrics["trainable_fraction"] == pytest.approx(learnt / whole)
    assert sum(p.numel() for p in trained.unet.parameters()) == whole
    assert sum(delta.numel() for delta in kept.values()) == (learnt if kind != "full" else 0)
    assert any(entry.path == DELTAS_NAME for entry in manifest.files) == (kind != "full")


def test_attention_module_that_the_base_lacks_is_refused(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    wishes = spec(stocked_home, parameters={"kind": "attention", "blocks": ["mid_block.attentions.7"]}, text_encoder="frozen")
    with pytest.raises(InvalidRequestError, match=r"no attention module mid_block\.attentions\.7") as caught:
        run_training(context("training", new_id("job"), wishes))
    assert caught.value.field == "parameters.blocks"


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


# ---------------------------------------------------------------- promises


def steps_of(home: StockedHome, job_id: str) -> list[tuple[int, str, str]]:
    """The steps that a training noted, of all its attempts: number, phase, digest of everything."""
    lines = (home.folder / f"{job_id}.steps").read_text().splitlines()
    return [(int(step), phase, digest) for step, phase, digest in (line.split() for line in lines)]


def trained_with_kills(home: StockedHome, kills: list[int]) -> tuple[dict[str, str], list[tuple[int, str, str]]]:
    """The weights of a training whose processes were killed after these steps, and its steps."""
    store = JobStore.open(home.settings)
    job_id = store.create(job_id=new_id("job"), kind="training", spec=spec(home, base=None, steps=15, checkpoint_every=3)).id
    command = [sys.executable, "-m", "tests.services.trainer.killed_training", job_id, *map(str, kills)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment_of(home), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    job = store.get(job_id)
    store.close()
    assert (job.state, job.attempt) == ("succeeded", len(kills) + 1), job.problem
    assert job.result is not None
    return weights(home, job.result["model"]), steps_of(home, job_id)


@pytest.mark.slow
def test_interrupted_training_equals_uninterrupted(stocked_home: StockedHome) -> None:
    """Ten SIGKILLs at random steps of all phases; every step of every attempt has the bits of the undisturbed training's step."""
    kills = sorted(random.Random(20261122).sample(range(1, 25), 10))
    undisturbed, its_steps = trained_with_kills(stocked_home, [])
    killed, steps = trained_with_kills(stocked_home, kills)
    expected = {step: (phase, digest) for step, phase, digest in its_steps}
    assert list(expected) == list(range(1, 25))
    assert [phase for phase, _ in expected.values()] == ["autoencoder"] * 5 + ["text-encoder"] * 4 + ["denoiser"] * 15
    assert {step for step, _, _ in steps} == set(expected)
    assert [step for step, phase, digest in steps if expected[step] != (phase, digest)] == []
    assert killed == undisturbed
    # Attempts went on from checkpoints instead of beginning again.
    assert len(steps) <= 24 + 10 * 6


def test_resume_restores_ema_counter_step_and_data_order(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    dealt: list[list[int]] = []
    draw = DenoisingLoss.draw

    def noted(self: DenoisingLoss) -> Any:
        visit = draw(self)
        dealt.append(visit.rows_B.tolist())
        return visit

    monkeypatch.setattr(DenoisingLoss, "draw", noted)
    run_training(context("training", new_id("job"), spec(stocked_home, steps=12)))
    order, dealt[:] = list(dealt), []
    job = context("training", new_id("job"), spec(stocked_home, steps=12))
    with mock.patch.object(job, "check_cancelled", side_effect=[None] * 6 + [JobInterruptedError]), pytest.raises(JobInterruptedError):
        run_training(job)
    store = open_store(stocked_home.settings)
    kept = CheckpointStore(store, job.id, scratch=stocked_home.folder, keep=2).newest()
    assert kept is not None
    run = kept.state.part("run")
    assert (kept.step, run.facts["step"], kept.state.facts["phase"]) == (7, 7, "denoiser")
    assert run.part("average").facts == {"updates": 7}
    assert run.part("optimiser").tensors["0.step"].item() == 7
    assert run.part("rates").facts["last_epoch"] == 7
    assert set(run.part("streams").facts) == {"numpy", "python"}
    assert len(run.part("loss").part("deck").tensors["waiting"]) > 0  # in the middle of an epoch
    assert dealt == order[:7]
    dealt.clear()
    run_training(job)
    assert dealt == order[7:]
    assert kept.state.part("progress").facts["done_before"] == 0
    assert CheckpointStore(store, job.id, scratch=stocked_home.folder, keep=2).steps() == []


def test_cancel_running_job_stops_within_one_step(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home, steps=500, checkpoint_every=2))
    seen: list[int] = []
    advance = Run.advance

    def noted(run: Run) -> Any:
        seen.append(run.step)
        if run.step == 5:
            job._cancelled.set()  # as the exchange with the record does
        return advance(run)

    with mock.patch.object(Run, "advance", noted), pytest.raises(JobCancelledError):
        run_training(job)
    assert seen == [0, 1, 2, 3, 4, 5]
    left = open_store(stocked_home.settings).list(prefix=f"checkpoints/{job.id}/")
    assert [found.key.rpartition("/")[2] for found in left] == ["losses.json"]
    assert list((stocked_home.folder / "trainings").iterdir()) == []


def test_training_leaves_its_curve_and_no_checkpoints(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    validation = {"every": 4, "prompts": ["PA chest film of a woman aged 61: left pleural effusion."]}
    job = context("training", new_id("job"), spec(stocked_home, steps=8, checkpoint_every=2, validation=validation))
    with mock.patch.object(validation_strip, "STEPS", 2):
        run_training(job)
    store = open_store(stocked_home.settings)
    keys = [found.key.removeprefix(f"checkpoints/{job.id}/") for found in store.list(prefix="checkpoints/")]
    assert keys == ["losses.json", "validation/4.png", "validation/8.png"]
    curves = json.loads(store.get(key=f"checkpoints/{job.id}/losses.json"))["curves"]
    assert [(curve["phase"], curve["steps"], len(curve["points"])) for curve in curves] == [("denoiser", 8, 8)]


def away_for_models(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """A store that cannot take a model's manifest for a while; answers what it was asked to take."""
    asked: list[str] = []
    put = DirectoryStore.put

    def sometimes(self: DirectoryStore, *, key: str, data: bytes, if_absent: bool = False) -> Any:
        if key.startswith("models/"):
            asked.append(key)
            if len(asked) <= times:
                raise UnavailableError("away")
        return put(self, key=key, data=data, if_absent=if_absent)

    monkeypatch.setattr(DirectoryStore, "put", sometimes)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_SECONDS", 0.01)
    return asked


def test_store_that_is_away_at_the_end_is_waited_for(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = away_for_models(monkeypatch, 3)
    result = run_training(context("training", new_id("job"), spec(stocked_home)))
    assert asked == [f"models/{result['model']}/manifest.json"] * 4


def test_store_that_stays_away_at_the_end_fails_the_job_and_leaves_its_checkpoints(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    away_for_models(monkeypatch, 10**9)
    monkeypatch.setattr(training_jobs, "STORE_PATIENCE", timedelta(seconds=0.5))
    job = context("training", new_id("job"), spec(stocked_home, steps=4, checkpoint_every=2))
    with pytest.raises(UnavailableError):
        run_training(job)
    assert CheckpointStore(open_store(stocked_home.settings), job.id, scratch=stocked_home.folder, keep=2).steps()[-1] == 4


def test_files_that_a_killed_attempt_left_on_the_disk_are_removed(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    job = context("training", new_id("job"), spec(stocked_home))
    left = stocked_home.folder / "trainings" / job.id / "checkpoint-half"
    left.mkdir(parents=True)
    (left / "modules.safetensors").write_bytes(b"half")
    run_training(job)
    assert list((stocked_home.folder / "trainings").iterdir()) == []


def test_stored_curve_is_the_whole_one_also_where_the_store_is_slow(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = DirectoryStore.put

    def slowly(self: DirectoryStore, *, key: str, data: bytes, if_absent: bool = False) -> Any:
        if key.endswith("losses.json"):
            time.sleep(0.5)
        return put(self, key=key, data=data, if_absent=if_absent)

    monkeypatch.setattr(DirectoryStore, "put", slowly)
    job = context("training", new_id("job"), spec(stocked_home, steps=6, checkpoint_every=1))
    run_training(job)
    [curve] = json.loads(open_store(stocked_home.settings).get(key=f"checkpoints/{job.id}/losses.json"))["curves"]
    assert curve["steps"] == 6


def test_next_training_clears_up_after_cancelled_ones(context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    cancelled = context("training", new_id("job"), spec(stocked_home))
    store = open_store(stocked_home.settings)
    kept = CheckpointStore(store, cancelled.id, scratch=stocked_home.folder, keep=2)
    kept.write(3, State())
    cancelled._store.release(job_id=cancelled.id, attempt=1, lost=False)
    cancelled._store.request_cancel(cancelled.id)
    run_training(context("training", new_id("job"), spec(stocked_home)))
    assert kept.steps() == []


def test_next_training_leaves_the_checkpoints_of_a_failed_one_and_clears_up_after_its_shards(
    context: Callable[..., JobContext], stocked_home: StockedHome
) -> None:
    failed = context("training", new_id("job"), spec(stocked_home))
    store = open_store(stocked_home.settings)
    kept, of_shard = (
        CheckpointStore(store, folder, scratch=stocked_home.folder, keep=2) for folder in (failed.id, shard_folder(failed.id, 0))
    )
    kept.write(3, State())
    of_shard.write(3, State())
    shard = shard_job_id(failed.id, 1, 0)
    failed._store.create(job_id=shard, kind="shard", spec={"training": failed.id})
    failed._store.fail(job_id=failed.id, attempt=1, problem={})
    run_training(context("training", new_id("job"), spec(stocked_home)))
    assert kept.steps() == [3]
    assert of_shard.steps() == []
    assert failed._store.get(shard).state == "cancelled"


@pytest.mark.slow
async def test_killed_worker_job_resumes_from_last_manifest(
    jobs: Jobs, context: Callable[..., JobContext], stocked_home: StockedHome
) -> None:
    whole = run_training(context("training", new_id("job"), spec(stocked_home, steps=40)))
    job_id = jobs.create("training", spec(stocked_home, steps=40, checkpoint_every=5))
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.reported.get("checkpoint_step", 0) >= 10)
        os.kill(jobs.process_of(job_id), signal.SIGKILL)
        job = await jobs.settled(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert job.reported["resumed_step"] >= 10
    assert job.result is not None
    assert weights(stocked_home, job.result["model"]) == weights(stocked_home, whole["model"])


@pytest.mark.slow
async def test_sigterm_checkpoints_and_requeues(jobs: Jobs, context: Callable[..., JobContext], stocked_home: StockedHome) -> None:
    whole = run_training(context("training", new_id("job"), spec(stocked_home, steps=40)))
    job_id = jobs.create("training", spec(stocked_home, steps=40))  # short enough to be kept by nothing but the signal
    async with jobs.running():
        await jobs.until(job_id, lambda job: job.step >= 5)
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < STOP_GRACE.total_seconds()
    job = jobs.store.get(job_id)
    assert (job.state, job.losses) == ("queued", 0)
    [step] = CheckpointStore(open_store(stocked_home.settings), job_id, scratch=stocked_home.folder, keep=2).steps()
    assert step >= 5
    async with jobs.running():
        job = await jobs.settled(job_id)
    assert (job.attempt, job.reported["resumed_step"]) == (2, step)
    assert job.result is not None
    assert weights(stocked_home, job.result["model"]) == weights(stocked_home, whole["model"])
