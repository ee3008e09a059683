"""What fits into memory, and what is said when it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from services.trainer import preflight, training_jobs
from services.trainer.activation_memory import Networks
from services.trainer.parameters.kinds import AttentionParameters, BiasNormParameters, LowRankParameters, SingularValueParameters
from services.trainer.parameters.selection import select_parameters
from services.trainer.preflight import Estimate, MemoryShortageError, require_memory
from services.trainer.training_spec import TrainingSpec
from shared.catalog import new_id
from tests.denoisers import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.catalog import Catalog
    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome

PLENTY = 2**40


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    """Of going on from the tiny model, on 1000 films with 400 prompts."""
    return Estimate(Networks.of(tiny_model(), 32), films=1000, prompts=400, from_scratch=False, device="cuda")


def spec(**wishes: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "base": "mdl_1", **wishes})


def device_bytes(estimate: Estimate, asked: TrainingSpec) -> int:
    return sum(estimate.needs(asked).device.values())


def test_parts_are_counted_from_the_configs(estimate: Estimate) -> None:
    model = tiny_model()
    unet, text, vae = (sum(p.numel() for p in part.parameters()) for part in (model.unet, model.text_encoder, model.vae))
    needs = estimate.needs(spec(validation={"every": 5, "prompts": ["x"]}))
    assert {name: size for name, size in needs.device.items() if name != "activations"} == {
        "weights": 4 * (unet + text + vae),
        "gradients": 4 * (unet + text),
        "optimiser": 8 * (unet + text),
        "average": 2 * 4 * (unet + text),  # a validation sets the weights aside
        "latents": 1000 * 4 * 4 * 8 * 8,
        "embeddings": 0,
    }
    assert needs.host == {"films": 1000 * 32 * 32, "checkpoints": 2 * 16 * (unet + text)}


def test_what_stays_has_no_gradients_and_no_moments(estimate: Estimate) -> None:
    needs = estimate.needs(spec(text_encoder="frozen", parameters={"kind": "bias_norm"}))
    learning = select_parameters(tiny_model().unet, BiasNormParameters(kind="bias_norm")).count
    assert (needs.device["gradients"], needs.device["optimiser"]) == (4 * learning, 8 * learning)
    assert needs.device["weights"] == estimate.needs(spec()).device["weights"]
    assert needs.host["checkpoints"] == 2 * 16 * learning
    assert needs.device["activations"] < estimate.needs(spec(text_encoder="frozen")).device["activations"]


def test_factors_of_weights_are_counted(estimate: Estimate) -> None:
    factors = estimate.needs(spec(text_encoder="frozen", parameters={"kind": "svdiff"})).device
    unet = tiny_model().unet
    before = sum(p.numel() for p in unet.parameters())
    select_parameters(unet, SingularValueParameters(kind="svdiff"))
    held = sum(tensor.numel() for tensor in (*unet.parameters(), *unet.buffers()))
    assert factors["weights"] - estimate.needs(spec()).device["weights"] == 4 * (held - before) > 0


def test_adapters_are_counted_beside_the_weights(estimate: Estimate) -> None:
    plain = estimate.needs(spec(text_encoder="frozen"))
    two, four = (estimate.needs(spec(text_encoder="frozen", parameters={"kind": "lora", "rank": rank})) for rank in (2, 4))
    learning = select_parameters(tiny_model().unet, LowRankParameters(kind="lora")).count
    assert four.device["weights"] - plain.device["weights"] == four.device["gradients"] == 4 * learning
    assert (four.device["optimiser"], four.host["checkpoints"]) == (8 * learning, 2 * 16 * learning)
    assert two.device["gradients"] == four.device["gradients"] // 2
    assert two.device["activations"] < four.device["activations"] < plain.device["activations"]


def test_masked_blocks_are_not_counted(estimate: Estimate) -> None:
    whole, part = (
        estimate.needs(spec(text_encoder="frozen", parameters=told)) for told in ({"kind": "full"}, {"kind": "full", "mask": [0, 0, 0, 0]})
    )
    inside = select_parameters(tiny_model().unet, AttentionParameters(kind="attention")).count
    assert whole.device["gradients"] - part.device["gradients"] == 4 * inside


def test_frozen_encoder_has_no_moments_and_a_cache(estimate: Estimate) -> None:
    frozen, plain = estimate.needs(spec(text_encoder="frozen", ema_decay=None)).device, estimate.needs(spec()).device
    assert frozen["gradients"] < plain["gradients"]
    assert frozen["average"] == 0
    assert frozen["embeddings"] == 400 * 64 * 64 * 4
    assert estimate.needs(spec(text_encoder="frozen", cache_embeddings=False)).device["embeddings"] == 0


def test_without_an_accelerator_everything_lies_in_one_memory_and_ranks_take_it_each(estimate: Estimate) -> None:
    host = replace(estimate, device="cpu")
    one, two = (host.needs(spec(data_parallel={"ranks": ranks})) for ranks in (1, 2))
    assert one.device == one.host
    assert one.host["weights"] == estimate.needs(spec()).device["weights"]
    assert two.host["weights"] == 2 * one.host["weights"]
    assert two.host["activations"] == pytest.approx(one.host["activations"], rel=0.01)


def test_shards_that_learn_at_once_are_counted_each_with_its_films(estimate: Estimate) -> None:
    frozen: dict[str, Any] = {"text_encoder": "frozen"}
    plain = estimate.needs(spec(**frozen))
    in_turn, together = (
        estimate.needs(spec(**frozen, ensemble={"kind": "iet", "shards": 4, "rounds": 2, "parallel": parallel})) for parallel in (1, 3)
    )
    weights = plain.device["weights"]
    assert plain.device["latents"] == 4 * in_turn.device["latents"]
    assert (plain.device["embeddings"], in_turn.device["embeddings"]) == (400 * 64 * 64 * 4, 251 * 64 * 64 * 4)
    assert (in_turn.device["weights"], together.device["weights"]) == (2 * weights, 4 * weights)
    assert together.device["optimiser"] == 3 * in_turn.device["optimiser"] == 3 * plain.device["optimiser"]
    films, checkpoints = plain.host["films"], plain.host["checkpoints"]
    learnt = 2 * plain.device["gradients"]  # and its average, the parent's alone
    assert together.host == {"films": 4 * films + 3 * films // 4, "checkpoints": 3 * checkpoints, "rounds": learnt}
    assert in_turn.host == {"films": 2 * films + films // 4, "checkpoints": checkpoints, "rounds": learnt}


def test_shards_in_turn_are_offered_where_several_do_not_fit(estimate: Estimate) -> None:
    asked = spec(batch_size=1, ensemble={"kind": "iet", "parallel": 4}, precision="bf16", gradient_checkpointing=True)
    room = device_bytes(estimate, spec(batch_size=1, ensemble={"kind": "iet"}, precision="bf16", gradient_checkpointing=True))
    with pytest.raises(MemoryShortageError, match="with ensemble parallel 1 it needs") as caught:
        require_memory(estimate, asked, device_bytes=room, host_bytes=PLENTY)
    assert caught.value.field == "ensemble.parallel"


def test_training_that_fits_is_let_pass(estimate: Estimate) -> None:
    asked = spec()
    assert require_memory(estimate, asked, device_bytes=device_bytes(estimate, asked), host_bytes=PLENTY) == estimate.needs(asked)
    assert sum(require_memory(replace(estimate, device="cpu"), asked).host.values()) > 2**24


@pytest.mark.parametrize(
    ("wishes", "field", "change"),
    [
        ({}, "batch_size", {"batch_size": 8, "gradient_accumulation": 2}),
        ({"gradient_accumulation": 4}, "batch_size", {"batch_size": 8, "gradient_accumulation": 8}),
        ({"batch_size": 1}, "gradient_checkpointing", {"gradient_checkpointing": True}),
        ({"batch_size": 1, "gradient_checkpointing": True}, "cache_latents", {"cache_latents": False}),
        ({"batch_size": 1, "gradient_checkpointing": True, "cache_latents": False}, "ema_decay", {"ema_decay": None}),
        (
            {"batch_size": 1, "gradient_checkpointing": True, "cache_latents": False, "ema_decay": None, "precision": "bf16"},
            "text_encoder",
            {"text_encoder": "frozen", "cache_embeddings": False},
        ),
    ],
)
def test_smallest_change_that_fits_is_named(estimate: Estimate, wishes: dict[str, Any], field: str, change: dict[str, Any]) -> None:
    asked = spec(**wishes)
    room = device_bytes(estimate, asked.model_copy(update=change))
    with pytest.raises(MemoryShortageError, match=f"with {field} ") as caught:
        require_memory(estimate, asked, device_bytes=room, host_bytes=PLENTY)
    assert caught.value.field == field
    assert "it needs about" in str(caught.value)
    assert "activations" in str(caught.value)


def test_smaller_passes_are_offered_last_and_with_a_remark_where_a_filter_judges_each(estimate: Estimate) -> None:
    filtered: dict[str, Any] = {"batch_filter": {"kind": "magnitude"}}
    smaller: dict[str, Any] = {"batch_size": 1, "gradient_accumulation": 16}
    room = device_bytes(estimate, spec(gradient_checkpointing=True))
    with pytest.raises(MemoryShortageError, match=r"with batch_size \d, .* and fits\.$"):
        require_memory(estimate, spec(), device_bytes=room, host_bytes=PLENTY)
    with pytest.raises(MemoryShortageError, match=r"with gradient_checkpointing true .* and fits\.$") as caught:
        require_memory(estimate, spec(**filtered), device_bytes=room, host_bytes=PLENTY)
    assert caught.value.field == "gradient_checkpointing"
    least = spec(**filtered, precision="bf16", gradient_checkpointing=True, cache_latents=False, ema_decay=None, text_encoder="frozen")
    least = least.model_copy(update={"cache_embeddings": False})
    room = device_bytes(estimate, least.model_copy(update=smaller))
    with pytest.raises(MemoryShortageError, match=r"with batch_size 1, .* fits\. The batch filter would judge") as caught:
        require_memory(estimate, least, device_bytes=room, host_bytes=PLENTY)
    assert caught.value.field == "batch_size"


def test_named_change_is_one_that_fits(estimate: Estimate) -> None:
    asked = spec(batch_size=12, data_parallel={"ranks": 2})
    for room in range(40_000_000, device_bytes(estimate, asked), 4_000_000):
        with pytest.raises(MemoryShortageError) as caught:
            require_memory(estimate, asked, device_bytes=room, host_bytes=PLENTY)
        if caught.value.field == "dataset":
            continue
        told = dict(pair.split(" ", 1) for pair in str(caught.value).split("; with ")[1].split(" it needs")[0].split(", "))
        values = {"true": True, "false": False, "null": None}
        change = {name: values.get(value, int(value) if value.isdigit() else value) for name, value in told.items()}
        assert device_bytes(estimate, asked.model_copy(update=change)) <= room
        assert change.get("batch_size", 12) % 2 == 0  # still dealt out to two ranks


def test_nothing_to_change_is_said(estimate: Estimate) -> None:
    with pytest.raises(MemoryShortageError, match="no setting makes it fit") as caught:
        require_memory(estimate, spec(), device_bytes=2**20, host_bytes=PLENTY)
    assert caught.value.field == "dataset"


def test_machines_own_memory_is_looked_at_too(estimate: Estimate) -> None:
    with pytest.raises(MemoryShortageError, match=r"checkpoints .* and 10.0 MiB are free"):
        require_memory(estimate, spec(), device_bytes=PLENTY, host_bytes=10 * 2**20)


def test_training_that_cannot_fit_reads_no_film(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_host_bytes", lambda: 2**20)
    monkeypatch.setattr(preflight, "available_device_bytes", lambda _device: 2**20)
    monkeypatch.setattr(training_jobs, "read_training_set", mock.Mock(side_effect=AssertionError("read")))
    told = {"name": "a", "dataset": stocked_home.dataset.id, "base": stocked_home.model.id, "steps": 1}
    with pytest.raises(MemoryShortageError, match=r"1.0 MiB are free"):
        training_jobs.run_training(context("training", new_id("job"), told))


def test_estimate_reads_manifests_and_configs_alone(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    folder: Path = stocked_catalog.fetch(stocked_home.model)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    going_on = Estimate.of(stocked_home.dataset, folder, "cpu")
    scratch = Estimate.of(stocked_home.dataset, None, "cpu")
    counts = stocked_home.dataset.counts
    assert going_on.films == scratch.films == counts["train"] + counts["canary"]
    assert going_on.prompts <= going_on.films + 1
    small, large = spec(), spec(batch_size=256)
    single = spec(batch_size=1)  # from scratch, the autoencoder learns first, and in larger batches
    assert scratch.needs(single).host["activations"] > 3 * going_on.needs(single).host["activations"]
    assert going_on.needs(large).host["activations"] > 10 * going_on.needs(small).host["activations"]
