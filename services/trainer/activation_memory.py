"""What a training step keeps between its forward and its backward pass, found by a forward pass without memory.

The networks are made with fake tensors, which have shapes and types and no values, so gigabytes are counted in milliseconds and
every architecture is counted as it is: attention by the kernel that runs, autocast's copies of weights, recomputed blocks.

B batch, C channels, H height, W width, L tokens, E embedding features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import CLIPTextConfig, CLIPTextModel

from services.trainer.parameters.kinds import AnyParameters, FullParameters
from services.trainer.parameters.selection import select_parameters
from shared.diffusion.model import Model
from shared.diffusion.model_folder import read_json

# What diffusers computes again, one after another, under gradient checkpointing.
RECOMPUTED: Final = (ResnetBlock2D, BasicTransformerBlock)
_EVERYTHING: Final = FullParameters()


@dataclass(frozen=True)
class Networks:
    """The configs of a model's networks, and the side of the films in pixels."""

    text_encoder: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    image_size: int

    @classmethod
    def of(cls, model: Model, image_size: int) -> Networks:
        """Those of a model in memory."""
        return cls(model.text_encoder.config.to_dict(), dict(model.unet.config), dict(model.vae.config), image_size)

    @classmethod
    def described(cls, folder: Path, image_size: int) -> Networks:
        """Those of a model folder, of which the configs alone are read."""
        text_encoder, unet, vae = (read_json(folder, f"{name}/config.json") for name in ("text_encoder", "unet", "vae"))
        return cls(text_encoder, unet, vae, image_size)

    def parameters(self) -> dict[str, int]:
        """How many numbers each network has."""
        with _fake():
            return {
                name: sum(p.numel() for p in make().parameters())
                for name, make in (("text_encoder", self._text_encoder), ("unet", self._unet), ("vae", self._vae))
            }

    def selected(self, parameters: AnyParameters) -> tuple[int, int]:
        """Of the denoiser under a selection: how many numbers learn, and how many it holds."""
        with _fake():
            unet = self._unet()
            learning = select_parameters(unet, parameters).count
            return learning, sum(tensor.numel() for tensor in (*unet.parameters(), *unet.buffers()))

    @property
    def latent_side(self) -> int:
        """Of the latents, in their pixels."""
        return int(self.image_size // 2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def latent_bytes(self) -> int:
        """Of one film's latents."""
        return 4 * int(self.unet["in_channels"]) * self.latent_side**2

    @property
    def embedding_bytes(self) -> int:
        """Of one prompt's embedding."""
        return 4 * int(self.text_encoder["max_position_embeddings"]) * int(self.text_encoder["hidden_size"])

    def step_bytes(self, batch: int, *, bf16: bool, checkpointing: bool, text_learns: bool, parameters: AnyParameters = _EVERYTHING) -> int:
        """What one pass of the denoiser, and of the text encoder where it learns, keeps for its backward pass."""
        tokens = int(self.text_encoder["max_position_embeddings"])
        with _fake(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            unet = self._unet()
            select_parameters(unet, parameters)
            x_BCHW = torch.empty(batch, int(self.unet["in_channels"]), self.latent_side, self.latent_side)
            told_BLE = torch.empty(batch, tokens, int(self.text_encoder["hidden_size"]))
            timesteps_B = torch.zeros(batch, dtype=torch.long)
            kept = _kept(lambda: unet(x_BCHW, timesteps_B, encoder_hidden_states=told_BLE), unet, checkpointing=checkpointing)
            if bf16 and checkpointing:  # autocast holds its copies of the weights until the pass ends, saved or not
                kept += sum(2 * p.numel() for p in unet.parameters())
            if text_learns:
                encoder = self._text_encoder()
                kept += _kept(lambda: encoder(torch.zeros(batch, tokens, dtype=torch.long)), encoder, checkpointing=False)
            return kept

    def autoencoder_bytes(self, batch: int) -> int:
        """What one pass of the autoencoder's own training keeps for its backward pass."""
        with _fake():
            vae = self._vae()
            x_BCHW = torch.empty(batch, int(self.vae["in_channels"]), self.image_size, self.image_size)
            return _kept(lambda: vae(x_BCHW), vae, checkpointing=False)

    def encoding_bytes(self, batch: int) -> int:
        """The largest tensor on the way through the encoder, which nothing is kept of."""
        largest = 0

        def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size())

        with _fake(), torch.no_grad():
            vae = self._vae()
            for module in vae.encoder.modules():
                module.register_forward_hook(watch)
            vae.encode(torch.empty(batch, int(self.vae["in_channels"]), self.image_size, self.image_size))
        return largest

    def _text_encoder(self) -> nn.Module:
        return _made(lambda: CLIPTextModel(CLIPTextConfig(**self.text_encoder)))

    def _unet(self) -> nn.Module:
        return _made(lambda: UNet2DConditionModel.from_config(dict(self.unet)))

    def _vae(self) -> Any:
        return _made(lambda: AutoencoderKL.from_config(dict(self.vae)))


@contextmanager
def _fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    """A network for training."""
    return make().train()


def _kept(forward: Callable[[], Any], network: Any, *, checkpointing: bool) -> int:
    """Bytes that a forward pass keeps, weights aside; where blocks are computed again, their inputs and the largest block."""
    ledger = _Ledger(network)
    inside: list[int] = []
    entered: list[int] = []
    blocks = [module for module in network.modules() if isinstance(module, RECOMPUTED)]
    hooks = [block.register_forward_pre_hook(lambda *_facts: entered.append(ledger.total)) for block in blocks]
    hooks += [block.register_forward_hook(lambda *_facts: inside.append(ledger.total - entered.pop())) for block in blocks]
    ledger.add(forward)
    if not checkpointing:
        return ledger.total
    for hook in hooks:
        hook.remove()
    again = _Ledger(network)
    for block in blocks:
        block.register_forward_pre_hook(again.note_inputs, with_kwargs=True)
    network.enable_gradient_checkpointing()
    again.add(forward)
    return again.total + max(inside, default=0)


class _Ledger:
    """Adds up the memory behind saved tensors, each piece once."""

    def __init__(self, network: nn.Module) -> None:
        self._known = {StorageWeakRef(w.untyped_storage()).cdata for w in (*network.parameters(), *network.buffers())}
        self._held: list[Any] = []  # a piece that is let go of could be followed by another at the same place
        self.total = 0

    def add(self, forward: Callable[[], Any]) -> None:
        """Note what a forward pass saves."""
        with torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor):
            forward()

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor's memory, unless it was counted."""
        storage = tensor.untyped_storage()
        address = StorageWeakRef(storage).cdata
        if address not in self._known:
            self._known.add(address)
            self._held.append(storage)
            self.total += storage.nbytes()
        return tensor

    def note_inputs(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Count what a block is given: it is kept for computing the block again."""
        for value in (*inputs, *named.values()):
            if isinstance(value, Tensor):
                self.note(value)
