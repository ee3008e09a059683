"""Which files hold a component's weights, and whether they are those of its config."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.trainer.weight_files import WeightFiles, read_config
from shared.diffusion.model import Model
from shared.diffusion.model_folder import ModelFolderError
from tests.denoisers import tiny_model

if TYPE_CHECKING:
    from pathlib import Path

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk, for all tests of this module."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_model().save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to change: small files anew, weights as links within reach."""
    import shutil

    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def config_of(folder: Path, component: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / component / "config.json").read_text()) | changes
    (folder / component / "config.json").write_text(json.dumps(config))
    return config


def change(folder: Path, name: str, tensors: dict[str, torch.Tensor | None]) -> None:
    """Write weights with some tensors in place of others; None leaves one out."""
    held = load_file(folder / name) | tensors
    save_file({key: value for key, value in held.items() if value is not None}, folder / name, {"format": "pt"})


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae"])
def test_weights_of_the_config_are_taken(folder: Path, component: str) -> None:
    weights = WeightFiles.find(folder, component)
    weights.check(config_of(folder, component))
    assert [*weights.files] == [next((folder / component).glob("*.safetensors")).relative_to(folder).as_posix()]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv_in.bias": None}, "unet lacks 1 tensors, first 'conv_in.bias'"),
        ({"evil": torch.zeros(1)}, "unet holds, and its config does not describe, 1 tensors, first 'evil'"),
        ({"conv_in.bias": torch.zeros(47)}, r"conv_in.bias has the shape \[47\], its config describes \[48\]"),
        ({"conv_in.bias": torch.zeros(48, dtype=torch.float64)}, "conv_in.bias has the type F64; BF16, F16, F32 are read"),
        ({"conv_in.bias": torch.zeros(48, dtype=torch.int8)}, "conv_in.bias has the type I8"),
    ],
)
def test_other_weights_are_refused_by_name(folder: Path, tensors: dict[str, torch.Tensor | None], message: str) -> None:
    change(folder, UNET, tensors)
    with pytest.raises(ModelFolderError, match=message):
        WeightFiles.find(folder, "unet").check(config_of(folder, "unet"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(folder: Path, dtype: torch.dtype) -> None:
    change(folder, UNET, {name: value.to(dtype) for name, value in load_file(folder / UNET).items()})
    WeightFiles.find(folder, "unet").check(config_of(folder, "unet"))


def test_half_variant_alone_is_kept_under_the_plain_name_and_never_preferred(folder: Path) -> None:
    variant = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    variant.write_bytes((folder / UNET).read_bytes())
    assert WeightFiles.find(folder, "unet").files == {UNET: folder / UNET}
    (folder / UNET).unlink()
    assert WeightFiles.find(folder, "unet").files == {UNET: variant}


def test_names_of_the_first_releases_are_known(folder: Path) -> None:
    text = load_file(folder / "text_encoder/model.safetensors")
    old = {f"text_model.{name}": value for name, value in text.items()} | {"text_model.embeddings.position_ids": torch.arange(64)[None]}
    save_file(old, folder / "text_encoder/model.safetensors", {"format": "pt"})
    WeightFiles.find(folder, "text_encoder").check(config_of(folder, "text_encoder"))
    renamed = {}
    for name, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        new = name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.").replace(".to_out.0.", ".proj_attn.")
        renamed[new] = value
    save_file(renamed, folder / "vae/diffusion_pytorch_model.safetensors", {"format": "pt"})
    WeightFiles.find(folder, "vae").check(config_of(folder, "vae"))
    assert all(bool(part.isfinite().all()) for part in Model.load(folder, key="old").vae.parameters())


# ---------------------------------------------------------------- several files


def sharded(folder: Path, **changes: Any) -> None:
    """The UNet in two files with their index."""
    tensors = load_file(folder / UNET)
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[: len(names) // 2], "part-2.safetensors": names[len(names) // 2 :]}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / "unet" / part, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}} | changes
    (folder / (UNET + ".index.json")).write_text(json.dumps(index))
    (folder / UNET).unlink()


def test_weights_in_parts_are_taken(folder: Path) -> None:
    sharded(folder)
    weights = WeightFiles.find(folder, "unet")
    weights.check(config_of(folder, "unet"))
    assert sorted(weights.files) == [f"{UNET}.index.json", "unet/part-1.safetensors", "unet/part-2.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../vae/diffusion_pytorch_model.safetensors"}, "points at '../vae/"),
        ({"a": "/etc/passwd"}, "points at '/etc/passwd'"),
        ({"a": "part-3.safetensors"}, "points at 'part-3.safetensors'"),
        ({"a": "config.json"}, "points at 'config.json'"),
        ({"a": "part-1.safetensors"}, "part-1.safetensors does not hold the tensors"),
        ({"a": 7}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_index_that_points_elsewhere_is_refused(folder: Path, weight_map: Any, message: str) -> None:
    sharded(folder, weight_map=weight_map)
    with pytest.raises(ModelFolderError, match=message):
        WeightFiles.find(folder, "unet")


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map is not allowed"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is not allowed"),
        ({"layers_per_block": 10**6}, "layers_per_block is beyond"),
        ({"layers_per_block": [1, 65]}, "layers_per_block is beyond"),
        ({"block_out_channels": [2**21, 2]}, "block_out_channels is beyond"),
        ({"block_out_channels": [8] * 65}, "block_out_channels is beyond"),
        ({"sample_size": float("inf")}, "sample_size is beyond"),
        ({"transformer_layers_per_block": [[1, 2], [100]]}, "transformer_layers_per_block is beyond"),
        ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL', model_index.json says UNet2DConditionModel"),
    ],
)
def test_config_beyond_reason_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    config_of(folder, "unet", **changes)
    with pytest.raises(ModelFolderError, match=message):
        read_config(folder, "unet/config.json", classes=frozenset({"UNet2DConditionModel"}))


@pytest.mark.parametrize(
    "changes", [{"down_block_types": ["EvilBlock"] * 2}, {"norm_num_groups": 0}, {"attention_head_dim": []}, {"act_fn": "evil"}]
)
def test_config_of_no_network_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFolderError, match=r"unet/config.json describes no network"):
        WeightFiles.find(folder, "unet").check(config_of(folder, "unet", **changes))


def test_component_without_weights_of_a_known_name_is_refused(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "other.safetensors")
    with pytest.raises(ModelFolderError, match=r"unet holds no diffusion_pytorch_model.safetensors"):
        WeightFiles.find(folder, "unet")
