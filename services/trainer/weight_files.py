"""The weights of a diffusers folder: which files hold them, and whether they are those that the configs describe.

Nothing is loaded here but headers: the networks are made on the meta device, where a tensor has a shape and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from shared.diffusion.model_folder import ModelFolderError, read_json
from shared.diffusion.safetensors_header import TensorFacts, read_header

WEIGHT_TYPES: Final = {"F32", "F16", "BF16"}
MAX_LAYERS: Final = 64  # of any list or count in a config; Stable Diffusion 2.x has 23
MAX_NUMBER: Final = 2**20  # of any other number in a config
COUNTS: Final = frozenset({"layers_per_block", "num_hidden_layers", "transformer_layers_per_block", "reverse_transformer_layers_per_block"})
# Keys that make a library import code or classes of its own choice.
FORBIDDEN_KEYS: Final = ("auto_map", "quantization_config", "custom_pipelines", "trust_remote_code")
_STEMS: Final = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
# Names of the first releases, which the libraries still read.
_OLD_ATTENTION: Final = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class WeightFiles:
    """Where a component's weights lie: files of the source by the name that the model keeps them under."""

    component: str
    files: Mapping[str, Path]
    tensors: Mapping[str, TensorFacts]

    @classmethod
    def find(cls, folder: Path, component: str) -> WeightFiles:
        """The weights in full precision if they are there, in parts if an index says so, else the fp16 variant."""
        stem = _STEMS[component]
        for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
            if name.endswith("fp16.safetensors") and (folder / component / f"{stem}.safetensors.index.json").is_file():
                return _parts(folder, component, f"{stem}.safetensors.index.json")
            path = folder / component / name
            if path.is_file():
                return cls(component, {f"{component}/{stem}.safetensors": path}, read_header(path, f"{component}/{name}"))
        raise ModelFolderError(f"{component} holds no {stem}.safetensors")

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse weights whose names, shapes or types are not those of the network that the config describes."""
        expected = _expected(self.component, config)
        found = {_present_name(self.component, name): (name, facts) for name, facts in self.tensors.items()}
        if self.component == "text_encoder":
            found.pop("embeddings.position_ids", None)  # kept by the first releases; no weight
        self._require_names(expected.keys(), found.keys())
        for present, (name, facts) in found.items():
            if facts.dtype not in WEIGHT_TYPES:
                raise ModelFolderError(f"{self.component}: {name} has the type {facts.dtype}; {', '.join(sorted(WEIGHT_TYPES))} are read")
            if facts.shape != expected[present]:
                raise ModelFolderError(
                    f"{self.component}: {name} has the shape {list(facts.shape)}, its config describes {list(expected[present])}"
                )

    def _require_names(self, expected: set[str] | Any, found: set[str] | Any) -> None:
        for these, those, what in ((expected, found, "lacks"), (found, expected, "holds, and its config does not describe,")):
            odd = sorted(these - those)
            if odd:
                raise ModelFolderError(f"{self.component} {what} {len(odd)} tensors, first {odd[0][:120]!r}")


def read_config(
    folder: Path, name: str, *, class_key: str = "_class_name", classes: frozenset[str] = frozenset(), sizes: bool = True
) -> dict[str, Any]:
    """A component's config; ModelFolderError when it names another class, other code, or (of networks) sizes beyond all reason."""
    config = read_json(folder, name)
    for key in FORBIDDEN_KEYS:
        if config.get(key):
            raise ModelFolderError(f"{name}: {key} is not allowed")
    named = config.get(class_key)
    if classes and named is not None and not {*(named if isinstance(named, list) else [named])} <= classes:
        raise ModelFolderError(f"{name}: {class_key} is {str(named)[:80]!r}, model_index.json says {' or '.join(sorted(classes))}")
    if sizes:
        for key, value in config.items():
            _require_reason(name, key, value)
    return config


def _parts(folder: Path, component: str, index_name: str) -> WeightFiles:
    """Weights in several files, each beside its index and holding what the index says."""
    told = read_json(folder / component, index_name).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(part, str) for part in told.values()):
        raise ModelFolderError(f"{component}/{index_name} has no weight_map")
    files: dict[str, Path] = {f"{component}/{index_name}": folder / component / index_name}
    tensors: dict[str, TensorFacts] = {}
    for part in sorted(set(told.values())):
        path = folder / component / part
        if Path(part).name != part or not part.endswith(".safetensors") or not path.is_file():
            raise ModelFolderError(f"{component}/{index_name} points at {part[:120]!r}, which is no safetensors file beside it")
        held = read_header(path, f"{component}/{part}")
        if held.keys() != {name for name, place in told.items() if place == part}:
            raise ModelFolderError(f"{component}/{part} does not hold the tensors that {index_name} says")
        files[f"{component}/{part}"] = path
        tensors |= held
    return WeightFiles(component, files, tensors)


def _require_reason(name: str, key: str, value: Any) -> None:
    """Bound what a network is made of before one is made: a config is a stranger's text."""
    values = value if isinstance(value, list) else [value]
    limit = MAX_LAYERS if key in COUNTS else MAX_NUMBER
    numbers = [entry for entry in values if isinstance(entry, int | float)]
    nested = [entry for entry in values if isinstance(entry, list)]
    if len(values) > MAX_NUMBER or (len(values) > MAX_LAYERS and key != "trained_betas") or any(not abs(n) <= limit for n in numbers):
        raise ModelFolderError(f"{name}: {key} is beyond what is read ({limit})")
    for entry in nested:
        _require_reason(name, key, entry)


def _expected(component: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors."""
    make: dict[str, Callable[[], nn.Module]] = {
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**config)),
        "unet": lambda: UNet2DConditionModel.from_config(dict(config)),
        "vae": lambda: AutoencoderKL.from_config(dict(config)),
    }
    try:
        with torch.device("meta"):
            network = make[component]()
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, NotImplementedError, ZeroDivisionError, IndexError) as error:
        raise ModelFolderError(f"{component}/config.json describes no network: {type(error).__name__}") from error
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _present_name(component: str, name: str) -> str:
    """A tensor's name as the libraries call it today."""
    if component == "text_encoder":
        return name.removeprefix("text_model.")
    if component == "vae" and ".mid_block.attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name
