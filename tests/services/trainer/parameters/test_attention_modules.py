"""Attention modules by name."""

from __future__ import annotations

from services.trainer.parameters.attention_modules import attention_modules, parameters_taking_part
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet


def test_all_and_some() -> None:
    unet = sd15_unet()
    assert len(attention_modules(unet)) == 16
    assert list(attention_modules(unet, ["mid_block.attentions.0", "down_blocks.0.attentions.1"])) == [
        "down_blocks.0.attentions.1",
        "mid_block.attentions.0",
    ]
    assert attention_modules(unet, []) == {}


def test_parameters_of_modules_that_are_not_named_do_not_take_part() -> None:
    unet = sd15_unet()
    everything = dict(unet.named_parameters())
    assert parameters_taking_part(unet, None) == everything
    named = ["down_blocks.0.attentions.1", "mid_block.attentions.0"]
    some = parameters_taking_part(unet, named)
    assert list(some) == [name for name in everything if "attentions" not in name or name.startswith(tuple(f"{n}." for n in named))]
    assert sum(p.numel() for p in parameters_taking_part(unet, []).values()) == SD15_PARAMETERS - 267_239_360
