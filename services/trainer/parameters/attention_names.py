"""The names of a denoiser's attention modules, from its config alone; free of tensor libraries, so that the HTTP surface can read it.

Names stand in the order in which a pass goes through them: down, middle, up. A mask's bits follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from services.trainer.parameters.kinds import AnyParameters
from shared.errors import InvalidRequestError

# How many attention modules a block has for each of its layers, and beside them.
PER_BLOCK: Final = {"DownBlock2D": (0, 0), "CrossAttnDownBlock2D": (1, 0), "UpBlock2D": (0, 0), "CrossAttnUpBlock2D": (1, 1)}
MIDDLE: Final = {"UNetMidBlock2DCrossAttn": ["mid_block.attentions.0"], None: []}
ORDER: Final = ("down_blocks", "mid_block", "up_blocks")


def attention_names(config: Mapping[str, Any]) -> list[str] | None:
    """Of the UNet that a config describes; None where it has blocks that are not known here, or leaves them to diffusers."""
    down, up, layers = (config.get(key) for key in ("down_block_types", "up_block_types", "layers_per_block"))
    if down is None or up is None or layers is None:
        return None
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if config.get("dual_cross_attention") or not {*down, *up} <= PER_BLOCK.keys() or middle not in MIDDLE:
        return None
    each = [layers] * len(down) if isinstance(layers, int) else list(layers)
    return _of_blocks("down_blocks", down, each) + MIDDLE[middle] + _of_blocks("up_blocks", up, each[::-1])


def in_order(names: Iterable[str]) -> list[str]:
    """Names of a network's modules, those of the middle block between those of the others."""
    return sorted(names, key=lambda name: ORDER.index(name.partition(".")[0]))


def chosen_names(parameters: AnyParameters, known: Sequence[str]) -> list[str]:
    """Those of a network's attention modules that take part; what does not fit the network is told what the network has."""
    if parameters.by_module is not None:
        field, numbers = parameters.by_module
        if len(numbers) != len(known):
            raise InvalidRequestError(
                f"parameters.{field} tells of {len(numbers)} attention modules, and the base has {len(known)}: {', '.join(known)}.",
                field=f"parameters.{field}",
            )
        return [name for name, number in zip(known, numbers, strict=True) if number]
    if parameters.blocks is None:
        return list(known)
    for name in parameters.blocks:
        if name not in known:
            raise InvalidRequestError(f"The base has no attention module {name}; it has {', '.join(known)}.", field="parameters.blocks")
    return [name for name in known if name in parameters.blocks]


def _of_blocks(side: str, kinds: Sequence[str], layers: Sequence[int]) -> list[str]:
    names: list[str] = []
    for block, (kind, depth) in enumerate(zip(kinds, layers, strict=True)):
        each, more = PER_BLOCK[kind]
        names += [f"{side}.{block}.attentions.{number}" for number in range(each * depth + more)]
    return names
