"""What a model folder may hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shared.diffusion import model_folder
from shared.diffusion.model import Model
from shared.diffusion.model_folder import ModelFolderError, check_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tiny: Model, tmp_path: Path) -> Path:
    """The tiny model on disk."""
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def rewrite_index(folder: Path, **entries: Any) -> None:
    """Change entries of model_index.json; None removes one."""
    index = json.loads((folder / "model_index.json").read_text()) | entries
    (folder / "model_index.json").write_text(json.dumps({name: entry for name, entry in index.items() if entry is not None}))


@pytest.mark.parametrize(
    "name", ["run.py", "unet/weights.bin", "vae/model.ckpt", "text_encoder/model.pt", "README/x.PKL", "unet/lib.so", ".x.pyc"]
)
def test_folder_with_code_or_pickled_weights_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(ModelFolderError, match=name):
        Model.load(folder, key="bad")


@pytest.mark.parametrize(
    "entry",
    [
        ["diffusers", "UNet3DConditionModel"],
        ["evil", "UNet2DConditionModel"],
        [None, None],
        [],
        ["diffusers"],
        [["diffusers"], {"a": 1}],
        ["diffusers", "UNet2DConditionModel", "more"],
    ],
)
def test_component_off_the_allow_list_is_refused(folder: Path, entry: list[Any]) -> None:
    rewrite_index(folder, unet=entry)
    with pytest.raises(ModelFolderError, match="unet"):
        check_folder(folder)


def test_unknown_component_is_refused(folder: Path) -> None:
    rewrite_index(folder, text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    with pytest.raises(ModelFolderError, match="text_encoder_2"):
        check_folder(folder)


def test_safety_checker_is_ignored(folder: Path) -> None:
    rewrite_index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    check_folder(folder)


@pytest.mark.parametrize("name", ["text_encoder", "tokenizer", "unet", "vae", "scheduler"])
def test_missing_component_is_named(folder: Path, name: str) -> None:
    rewrite_index(folder, **{name: None})
    with pytest.raises(ModelFolderError, match=f"{name} is missing"):
        check_folder(folder)


def test_component_without_its_folder_is_named(folder: Path) -> None:
    (folder / "scheduler").rename(folder / "elsewhere")
    with pytest.raises(ModelFolderError, match="scheduler is missing"):
        check_folder(folder)


def test_component_without_weights_is_named(folder: Path) -> None:
    next((folder / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(ModelFolderError, match="vae holds no safetensors"):
        check_folder(folder)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "7", "[" * 100_000, "\udcff"])
def test_unreadable_index_is_refused(folder: Path, content: str | None) -> None:
    if content is None:
        (folder / "model_index.json").unlink()
    else:
        (folder / "model_index.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelFolderError):
        check_folder(folder)


def test_link_that_leaves_the_folder_is_refused_and_one_within_is_not(folder: Path) -> None:
    (folder / "same.json").symlink_to(folder / "model_index.json")
    check_folder(folder)
    (folder.parent / "secret").write_text("x")
    (folder / "vae" / "extra.safetensors").symlink_to(folder.parent / "secret")
    with pytest.raises(ModelFolderError, match=r"vae/extra.safetensors is a link that leaves"):
        check_folder(folder)


def test_huge_folder_is_not_walked_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "MAX_ENTRIES", 5)
    with pytest.raises(ModelFolderError, match="more than 5 files"):
        check_folder(folder)


def test_huge_json_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "MAX_JSON_BYTES", 5)
    with pytest.raises(ModelFolderError, match=r"model_index.json is larger than 5 bytes"):
        check_folder(folder)
