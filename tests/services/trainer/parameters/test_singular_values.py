"""Layers by their singular values: counted on Stable Diffusion's network; exact before, while and after they learn."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.singular_values import SpectralLayer, SpectralLinear, singular_value_parameters, spectral
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...], int]] = [
    (lambda: nn.Linear(6, 4), (2, 5, 6), 4),
    (lambda: nn.Linear(4, 6, bias=False), (2, 5, 4), 4),
    (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), 6),
    (lambda: nn.Conv2d(3, 40, 3, padding=1), (2, 3, 8, 8), 27),
    (lambda: nn.Conv2d(6, 6, 1), (2, 6, 8, 8), 6),
    (lambda: nn.GroupNorm(2, 4), (2, 4, 8, 8), 1),
    (lambda: nn.LayerNorm(4), (2, 5, 4), 1),
]


def test_census() -> None:
    unet = sd15_unet()
    chosen = singular_value_parameters(unet)
    assert chosen.count == sum(p.numel() for p in unet.parameters() if p.requires_grad) == 222_805
    assert 100 * chosen.count / SD15_PARAMETERS == pytest.approx(0.0259, abs=0.00005)


def test_norms_may_have_a_rate_of_their_own() -> None:
    unet = sd15_unet()
    rates = [rate for _, rate in singular_value_parameters(unet, norm_learning_rate=1e-6).rated_parameters()]
    assert rates.count(1e-6) == 61 + 48  # group norms and layer norms
    assert rates.count(None) == 184 + 98  # linear layers and convolutions
    assert {rate for _, rate in singular_value_parameters(sd15_unet()).rated_parameters()} == {None}


def test_census_of_masked_blocks() -> None:
    names = list(attention_modules(sd15_unet(), None))
    assert singular_value_parameters(sd15_unet(), []).count == 104_101
    thirds = [name for name in names if name.startswith("up_blocks") and name.endswith("attentions.2")]
    assert singular_value_parameters(sd15_unet(), thirds).count == 125_486  # MemControl's 13 bits, all off


@pytest.mark.parametrize("whole", [False, True], ids=["factors", "whole"])
@pytest.mark.parametrize(("make", "shape", "count"), LAYERS)
def test_layer_answers_and_learns_like_its_formula(make: Callable[[], nn.Module], shape: tuple[int, ...], count: int, whole: bool) -> None:
    torch.manual_seed(0)
    plain, x = make(), torch.randn(shape, requires_grad=True)
    if plain.weight.ndim == 1:
        nn.init.normal_(plain.weight)
    weight, before = plain.weight.detach().clone(), plain(x).detach()
    matrix = weight.flatten(1) if weight.ndim > 1 else weight[None]
    with mock.patch.object(SpectralLayer, "is_cheaper_whole", return_value=whole):
        layer = spectral(plain)
        assert layer is not None
        assert layer.delta.numel() == count
        torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            layer.delta.uniform_(-0.7, 0.5)
        left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
        delta = layer.delta.detach().clone().requires_grad_()
        changed = (left * torch.relu(singular_values + delta)) @ right
        reference = make()
        expected = torch.func.functional_call(
            reference, {"weight": changed.view(weight.shape)} | ({"bias": plain.bias} if plain.bias is not None else {}), (x,)
        )
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        up = torch.randn(expected.shape)
        wanted = torch.autograd.grad(expected, [x, delta], up)
        given = torch.autograd.grad(layer(x), [x, layer.delta], up)
        torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-4)
        assert layer.merged() is plain
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)


def test_norm_of_zeros_stays_one() -> None:
    plain, x = nn.LayerNorm(4), torch.randn(2, 4)
    nn.init.zeros_(plain.weight)
    layer = spectral(plain)
    assert layer is not None
    assert torch.equal(layer(x), torch.zeros(2, 4))


@pytest.mark.parametrize("plain", [nn.Linear(3, 4), nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_singular_values_below_zero_are_counted(plain: nn.Module) -> None:
    layer = spectral(plain)
    assert layer is not None
    assert layer.stuck() == 0
    with torch.no_grad():
        layer.delta[0] = -100.0
        layer.delta[1:] = -1e-6
    assert layer.stuck() == 1
    layer.weight.square().sum().backward()
    assert layer.delta.grad is not None
    assert int((layer.delta.grad == 0).sum()) == 1  # it has no way back


def test_layers_without_a_weight_stay() -> None:
    assert spectral(nn.LayerNorm(4, elementwise_affine=False)) is None
    assert spectral(nn.SiLU()) is None


def test_weight_is_made_where_many_positions_share_it() -> None:
    square, wide = SpectralLinear(nn.Linear(32, 32)), SpectralLinear(nn.Linear(32, 256))
    assert [square.is_cheaper_whole(positions) for positions in (64, 65)] == [False, True]  # twice the width
    assert not wide.is_cheaper_whole(1_000_000)


class LowRank(nn.Module):
    """A frozen linear layer and a product of rank 4 that learns (LoRA)."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain
        self.down = nn.Linear(plain.in_features, 4, bias=False, device="meta")
        self.up = nn.Linear(4, plain.out_features, bias=False, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        """W x + B A x."""
        return torch.as_tensor(self.plain(x) + self.up(self.down(x)))


def low_rank(unet: nn.Module) -> None:
    """Give LoRA's usual layers their products."""
    unet.requires_grad_(False)
    for name, layer in list(unet.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            unet.set_submodule(name, LowRank(layer))


def operations(prepare: Callable[[nn.Module], object]) -> int:
    """Of one forward and backward pass of Stable Diffusion's denoiser at 256 pixels."""
    unet = sd15_unet()
    prepare(unet)
    with FlopCounterMode(display=False) as counter:
        x, told = torch.empty(1, 4, 32, 32, device="meta"), torch.empty(1, 77, 768, device="meta")
        unet(x, torch.zeros(1, device="meta", dtype=torch.long), encoder_hidden_states=told).sample.mean().backward()
    return counter.get_total_flops()


def test_step_costs_few_more_operations_than_lora() -> None:
    assert operations(singular_value_parameters) < 1.3 * operations(low_rank)


def test_decomposition_is_taken_once() -> None:
    layer = SpectralLinear(nn.Linear(8, 4))
    with mock.patch("torch.linalg.svd", side_effect=AssertionError):
        layer(torch.randn(2, 8)).sum().backward()
        layer.merged()
    assert layer.delta.grad is not None
