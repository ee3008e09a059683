"""What a denoiser learnt by numbers that its plain weights do not show: kilobytes that make the model again out of its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors.torch import save_file
from torch import Tensor, nn

from services.trainer.parameters.stand_in import StandIn

DELTAS_NAME: Final = "deltas.safetensors"


def collect_deltas(network: nn.Module) -> dict[str, Tensor]:
    """Copies of everything that learns in a network with stand-ins, by name; nothing of one whose own weights learn."""
    if not any(isinstance(module, StandIn) for module in network.modules()):
        return {}
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return {name.replace(".plain.", "."): p.detach().cpu().clone() for name, p in learning.items()}


def write_deltas(folder: Path, deltas: Mapping[str, Tensor]) -> None:
    """Put them beside the model's parts, if there are any."""
    if deltas:
        save_file(dict(deltas), folder / DELTAS_NAME)
