"""What a training job is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.training_spec import TrainingSpec
from tests.fixtures.processes import ROOT


def test_spec_survives_the_way_through_a_job_record() -> None:
    spec = TrainingSpec(name="a", dataset="ds_1", steps=7, seed=2**53 - 1)
    assert TrainingSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_spec_without_wishes_is_the_documented_one() -> None:
    told = TrainingSpec(name="a", dataset="ds_1").model_dump(mode="json")
    assert told == {
        "name": "a",
        "dataset": "ds_1",
        "base": None,
        "architecture": "tiny",
        "steps": 1500,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "prompt_dropout": 0.1,
        "seed": 0,
        "autoencoder": "frozen",
        "text_encoder": "train",
        "truncate_prompts": False,
        "schedule": "one_cycle",
        "warm_up": 0.1,
        "weight_decay": 0.01,
        "ema_decay": 0.995,
        "objective": "epsilon",
        "min_snr_gamma": None,
        "noise_offset": 0.0,
        "precision": "fp32",
        "gradient_accumulation": 1,
        "gradient_checkpointing": False,
        "cache_latents": True,
        "cache_embeddings": True,
        "data_parallel": {"ranks": 1},
        "checkpoint_every": None,
        "validation": None,
        "parameters": {"kind": "full", "blocks": None, "mask": None, "learning_rate": None},
        "deduplicate": None,
        "captions": [],
        "batch_filter": None,
        "timesteps": "uniform",
        "ensemble": None,
        "found_by": None,
    }


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"steps": 39}, "take 40 steps or more"),
        ({"ensemble": {"kind": "iet", "redistribute": 0.05}}, "give a batch_filter"),
        ({"data_parallel": {"ranks": 2}}, "share no batches"),
        ({"validation": {"prompts": ["a"]}}, "after the last round"),
    ],
)
def test_ensemble_that_cannot_work_is_refused_with_the_reason(wishes: dict[str, Any], reason: str) -> None:
    whole = {"name": "a", "dataset": "ds_1", "ensemble": {"kind": "iet"}}
    assert TrainingSpec.model_validate(whole | {"steps": 40}).ensemble is not None
    with pytest.raises(ValidationError, match=reason) as caught:
        TrainingSpec.model_validate(whole | wishes)
    assert [error["loc"] for error in caught.value.errors()] == [("ensemble",)]
    moving = {"ensemble": {"kind": "iet", "redistribute": 0.05}, "batch_filter": {"kind": "anti_gradient"}}
    assert TrainingSpec.model_validate(whole | moving).batch_filter is not None


@pytest.mark.parametrize(
    "change", [{"captions": ["x"]}, {"batch_filter": {}}, {"ensemble": 2}, {"timesteps": "cubic"}, {"learning_rate": 0}]
)
def test_method_that_does_not_exist_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", **change})


@pytest.mark.parametrize(
    "change",
    [
        {"warm_up": 1.0},
        {"ema_decay": 1.0},
        {"min_snr_gamma": 0},
        {"noise_offset": -0.1},
        {"precision": "fp16"},
        {"gradient_accumulation": 0},
        {"autoencoder": "train"},
        {"validation": {"every": 10, "prompts": []}},
        {"validation": {"every": 10, "prompts": ["x"] * 9}},
        {"data_parallel": {"ranks": 0}},
        {"checkpoint_every": 0},
    ],
)
def test_value_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", **change})


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"text_encoder": "frozen"}, "need a base"), ({"base": "mdl_1"}, "set text_encoder to frozen")],
)
def test_part_of_a_denoiser_needs_a_base_and_a_frozen_text_encoder(change: dict[str, Any], reason: str) -> None:
    told = {"name": "a", "dataset": "ds_1", "parameters": {"kind": "bias_norm"}}
    with pytest.raises(ValidationError, match=reason):
        TrainingSpec.model_validate(told | change)
    assert TrainingSpec.model_validate(told | {"base": "mdl_1", "text_encoder": "frozen"}).parameters.kind == "bias_norm"


def test_manifests_keep_no_prompts() -> None:
    spec = TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "validation": {"every": 5, "prompts": ["secret", "other"]}})
    assert spec.without_prompts() == spec.model_dump(mode="json") | {"validation": {"every": 5, "prompts": 2}}
    assert TrainingSpec(name="a", dataset="ds_1").without_prompts()["validation"] is None


def test_spec_is_read_without_tensor_libraries() -> None:
    script = "import sys, services.trainer.training_spec; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_batch_filter_judges_whole_batches() -> None:
    with pytest.raises(ValidationError, match=r"(?s)batch_filter.*ranks see shares"):
        TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "batch_filter": {"kind": "magnitude"}, "data_parallel": {"ranks": 2}})
