"""Attention modules' names from configs, held to those of real networks, and what chooses among them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.attention_names import attention_names, chosen_names, in_order
from services.trainer.parameters.kinds import FullParameters, LowRankParameters, SingularValueParameters
from shared.errors import InvalidRequestError
from tests.denoisers import tiny_model
from tests.fixtures.processes import ROOT
from tests.stable_diffusion_shape import sd15_unet


def on_meta(**config: Any) -> UNet2DConditionModel:
    """A network without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.mark.parametrize(
    ("unet", "count"),
    [
        (sd15_unet(), 16),
        (tiny_model().unet, 4),
        (on_meta(layers_per_block=(1, 2, 3, 1)), (1 + 2 + 3) + 1 + (4 + 3 + 2)),
        (on_meta(transformer_layers_per_block=2), 16),
        (on_meta(mid_block_type=None), 15),
    ],
    ids=["sd15", "tiny", "layers by block", "deeper transformers", "no middle"],
)
def test_names_are_those_of_the_network_in_the_order_of_a_pass(unet: UNet2DConditionModel, count: int) -> None:
    names = attention_names(unet.config)
    assert names == in_order(attention_modules(unet))
    assert len(names) == count


def test_order_is_down_middle_up() -> None:
    names = attention_names(sd15_unet().config)
    assert names is not None
    assert (names[0], names[5], names[6], names[7], names[15]) == (
        "down_blocks.0.attentions.0",
        "down_blocks.2.attentions.1",
        "mid_block.attentions.0",
        "up_blocks.1.attentions.0",
        "up_blocks.3.attentions.2",
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"dual_cross_attention": True},
        {"down_block_types": ["AttnDownBlock2D"]},
        {"mid_block_type": "UNetMidBlock2D"},
        {"layers_per_block": None},
    ],
)
def test_config_that_does_not_show_them_is_left_to_the_job(odd: dict[str, Any]) -> None:
    assert attention_names(dict(sd15_unet().config) | odd) is None


def test_mask_and_names_choose_alike() -> None:
    known = ["down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0"]
    assert chosen_names(FullParameters(), known) == known
    assert chosen_names(FullParameters(mask=[1, 0, 1]), known) == [known[0], known[2]]
    assert chosen_names(FullParameters(blocks=[known[2], known[0]]), known) == [known[0], known[2]]
    assert chosen_names(SingularValueParameters(kind="svdiff", mask=[0, 0, 0]), known) == []
    assert chosen_names(LowRankParameters(kind="lora", ranks=[0, 8, 2]), known) == known[1:]


def test_what_does_not_fit_the_base_is_refused_with_what_does() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"parameters\.mask tells of 13 attention modules, and the base has 1: mid_block\.attentions\.0"
    ) as refused:
        chosen_names(FullParameters(mask=[1] * 13), ["mid_block.attentions.0"])
    assert refused.value.field == "parameters.mask"
    with pytest.raises(InvalidRequestError, match=r"parameters\.ranks tells of 2 attention modules, and the base has 1") as refused:
        chosen_names(LowRankParameters(kind="lora", ranks=[0, 2]), ["mid_block.attentions.0"])
    assert refused.value.field == "parameters.ranks"
    with pytest.raises(
        InvalidRequestError, match=r"no attention module mid_block\.attentions\.1; it has mid_block\.attentions\.0"
    ) as refused:
        chosen_names(FullParameters(blocks=["mid_block.attentions.1"]), ["mid_block.attentions.0"])
    assert refused.value.field == "parameters.blocks"


def test_no_tensor_library_is_needed() -> None:
    code = "import sys, services.trainer.parameters.attention_names; print([m for m in ('torch', 'diffusers', 'peft') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout == "[]\n"
