"""Attention modules by name."""

from __future__ import annotations

import pytest

from services.trainer.parameters.attention_modules import attention_modules
from shared.errors import InvalidRequestError
from tests.stable_diffusion_shape import sd15_unet


def test_all_and_some() -> None:
    unet = sd15_unet()
    assert len(attention_modules(unet, None)) == 16
    assert list(attention_modules(unet, ["mid_block.attentions.0", "down_blocks.0.attentions.1"])) == [
        "down_blocks.0.attentions.1",
        "mid_block.attentions.0",
    ]
    assert attention_modules(unet, []) == {}


def test_name_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"no attention module down_blocks\.3\.attentions\.0; it has down_blocks\.0") as refused:
        attention_modules(sd15_unet(), ["down_blocks.3.attentions.0"])
    assert refused.value.field == "parameters.blocks"
