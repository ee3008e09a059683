"""Which parameters are chosen by place and by name, counted on Stable Diffusion's network."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from services.trainer.parameters.named_parameters import all_parameters, attention_parameters, bias_norm_parameters
from tests.denoisers import tiny_model
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet


def test_census_of_attention() -> None:
    unet = sd15_unet()
    assert sum(p.numel() for p in unet.parameters()) == SD15_PARAMETERS
    chosen = attention_parameters(unet)
    assert chosen.count == 267_239_360
    assert 100 * chosen.count / SD15_PARAMETERS == pytest.approx(31.09, abs=0.005)
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == chosen.count


@pytest.mark.parametrize(
    ("block", "count"),
    [("down_blocks.0.attentions.1", 2_546_240), ("up_blocks.2.attentions.2", 9_188_480), ("mid_block.attentions.0", 34_760_960)],
)
def test_census_of_one_attention_module(block: str, count: int) -> None:
    assert attention_parameters(sd15_unet(), [block]).count == count


def test_census_of_blocks_that_do_not_take_part() -> None:
    inside = attention_parameters(sd15_unet()).count
    assert all_parameters(sd15_unet()).count == SD15_PARAMETERS
    assert all_parameters(sd15_unet(), []).count == SD15_PARAMETERS - inside
    assert all_parameters(sd15_unet(), ["mid_block.attentions.0"]).count == SD15_PARAMETERS - inside + 34_760_960
    unet = sd15_unet()
    assert bias_norm_parameters(unet, ["mid_block.attentions.0"]).count < 443_844
    learning = {name for name, p in unet.named_parameters() if p.requires_grad and "attentions" in name}
    assert learning
    assert all(name.startswith("mid_block.") for name in learning)


def test_gradient_where_nothing_before_the_attention_learns() -> None:
    unet = tiny_model().unet
    chosen = attention_parameters(unet)
    first = next(module for module in unet.down_blocks.modules() if isinstance(module, Transformer2DModel))
    x = torch.randn(2, first.in_channels, 4, 4).to(memory_format=torch.channels_last)  # which crashed torch 2.13
    first(x, encoder_hidden_states=torch.randn(2, 5, 64), return_dict=False)[0].sum().backward()
    assert first.norm.weight.grad is not None
    assert chosen.count > first.norm.weight.numel()


def test_census_of_biases_and_norms() -> None:
    unet = sd15_unet()
    assert bias_norm_parameters(unet).count == 443_844
    learning = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert all("bias" in name or "norm" in name for name in learning)
    assert sum(p.numel() for name, p in unet.named_parameters() if p.requires_grad and "norm" in name) == 200_320
