"""Factors of residual branches: counted on Stable Diffusion's network, and merged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from services.trainer.parameters.scale_factors import ScaledLinear, scale_factor_parameters
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet


def test_census() -> None:
    unet = sd15_unet()
    chosen = scale_factor_parameters(unet)
    assert sum(p.numel() for name, p in unet.named_parameters() if name.endswith("gamma")) == 37_440
    assert chosen.count == sum(p.numel() for p in unet.parameters() if p.requires_grad) == 481_284
    assert 100 * chosen.count / SD15_PARAMETERS == pytest.approx(0.0560, abs=0.00005)


def test_census_of_blocks_without_factors() -> None:
    assert scale_factor_parameters(sd15_unet(), []).count == 443_844
    assert scale_factor_parameters(sd15_unet(), ["mid_block.attentions.0"]).count == 443_844 + 3 * 1280


def test_factors_go_into_weight_and_bias() -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(3, 2), torch.randn(5, 3)
    scaled = ScaledLinear(plain)
    assert torch.equal(scaled(x), plain(x))
    with torch.no_grad():
        scaled.gamma.copy_(torch.tensor([2.0, -0.5]))
    expected = plain(x) * torch.tensor([2.0, -0.5])
    assert torch.equal(scaled(x), expected)
    assert scaled.merged() is plain
    torch.testing.assert_close(plain(x), expected)
