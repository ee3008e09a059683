"""What a model folder may hold: allow-listed classes and safetensors weights; nothing that could run code."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any, Final

from shared.errors import InvalidRequestError

PIPELINE: Final = "StableDiffusionPipeline"
ALLOWED_COMPONENTS: Final = {
    "text_encoder": ("transformers", {"CLIPTextModel"}),
    "tokenizer": ("transformers", {"CLIPTokenizer", "CLIPTokenizerFast"}),
    "unet": ("diffusers", {"UNet2DConditionModel"}),
    "vae": ("diffusers", {"AutoencoderKL"}),
    "scheduler": (
        "diffusers",
        {"DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"},
    ),
}
WEIGHTED_COMPONENTS: Final = {"text_encoder", "unet", "vae"}
IGNORED_COMPONENTS: Final = {"safety_checker", "feature_extractor", "image_encoder"}  # of Stable Diffusion folders; never loaded
# Code, pickles, and weights in formats that are pickles or unread: their presence alone is a reason to refuse.
FORBIDDEN_SUFFIXES: Final = frozenset(
    {".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}
)
MAX_ENTRIES: Final = 1000
MAX_JSON_BYTES: Final = 16 * 2**20  # the largest is a tokenizer's


class ModelFolderError(InvalidRequestError):
    """A model folder holds something that is not on the allow-list, or lacks a part."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that could run code or lacks a part, before anything of it is opened."""
    index = read_json(folder, "model_index.json")
    paths = list(islice(folder.rglob("*"), MAX_ENTRIES + 1))
    if len(paths) > MAX_ENTRIES:
        raise ModelFolderError(f"the folder holds more than {MAX_ENTRIES} files; a model folder holds a dozen")
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        if path.suffix.casefold() in FORBIDDEN_SUFFIXES:
            raise ModelFolderError(f"{name}: only safetensors weights are loaded, and no code")
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise ModelFolderError(f"{name} is a link that leaves the folder")
    components = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    for name, entry in components.items():
        library, classes = ALLOWED_COMPONENTS.get(name, ("", set()))
        if name not in IGNORED_COMPONENTS and entry not in [[library, allowed] for allowed in classes]:
            raise ModelFolderError(f"model_index.json: {name} = {entry} is not on the allow-list")
    for name in sorted(ALLOWED_COMPONENTS):
        if name not in components or not (folder / name).is_dir():
            raise ModelFolderError(f"{name} is missing; a model folder holds {', '.join(sorted(ALLOWED_COMPONENTS))}")
        if name in WEIGHTED_COMPONENTS and not any((folder / name).glob("*.safetensors")):
            raise ModelFolderError(f"{name} holds no safetensors weights")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder; ModelFolderError when it is missing, too large or something else."""
    path = folder / name
    try:
        if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFolderError(f"{name} is larger than {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{name} is missing or unreadable; a diffusers folder is needed") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{name} is no JSON object")
    return content
