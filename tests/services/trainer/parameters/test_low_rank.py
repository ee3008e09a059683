"""Adapters of low rank: counted on Stable Diffusion's network; exact before and while they learn, and merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from services.trainer.parameters.low_rank import PROJECTIONS, LowRankLinear, low_rank_parameters
from tests.denoisers import tiny_model
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@pytest.mark.parametrize(("rank", "count", "percent"), [(4, 797_184, 0.0927), (8, 1_594_368, 0.185), (16, 3_188_736, 0.371)])
def test_census(rank: int, count: int, percent: float) -> None:
    unet = sd15_unet()
    chosen = low_rank_parameters(unet, rank=rank)
    assert chosen.count == sum(p.numel() for p in unet.parameters() if p.requires_grad) == count
    assert 100 * chosen.count / SD15_PARAMETERS == pytest.approx(percent, abs=0.0005)
    adapted = [name for name, module in unet.named_modules() if isinstance(module, LowRankLinear)]
    assert len(adapted) == 128  # q, k, v, out of 32 attentions
    assert all(name.endswith(PROJECTIONS) for name in adapted)


def test_census_of_one_attention_module() -> None:
    unet = sd15_unet()
    assert low_rank_parameters(unet, ["mid_block.attentions.0"]).count == 4 * (2 * 1280 * 8 - 2 * 1280 + 2 * 768)
    assert all(name.startswith("mid_block.") for name, p in unet.named_parameters() if p.requires_grad)


def test_census_by_ranks() -> None:
    """A rank more costs a module the same whatever its rank is, so differing ranks cost what modules of one rank each cost together."""
    ranks = {"down_blocks.0.attentions.0": 2, "mid_block.attentions.0": 8, "up_blocks.3.attentions.2": 1}
    together = low_rank_parameters(sd15_unet(), list(ranks), rank=ranks)
    assert together.count == sum(low_rank_parameters(sd15_unet(), [name], rank=rank).count for name, rank in ranks.items())
    assert {min(p.shape) for p in together.chosen} == {1, 2, 8}


def test_pairs_stand_in_order_a_then_b() -> None:
    unet = tiny_model().unet
    chosen = list(low_rank_parameters(unet, rank=3).chosen)
    adapted = [module for module in unet.modules() if isinstance(module, LowRankLinear)]
    assert [id(p) for p in chosen] == [id(p) for layer in adapted for p in (layer.lora_A.weight, layer.lora_B.weight)]
    assert all(a.shape[0] == b.shape[1] == 3 for a, b in zip(chosen[::2], chosen[1::2], strict=True))
    assert all(b.count_nonzero() == 0 for b in chosen[1::2])
    spread = torch.cat([a.detach().flatten() for a in chosen[::2]]) * 3
    assert spread.mean().abs() < 0.05
    assert spread.std() == pytest.approx(1, abs=0.05)


def test_layer_answers_learns_and_merges_like_its_formula() -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(6, 5), torch.randn(7, 6, requires_grad=True)
    weight, before = plain.weight.detach().clone(), plain(x).detach()
    layer = LowRankLinear(plain, rank=2, alpha=3.0)
    assert torch.equal(layer(x), before)
    with torch.no_grad():
        layer.lora_B.weight.normal_()
    a, b = (part.weight.detach().clone().requires_grad_() for part in (layer.lora_A, layer.lora_B))
    expected = x @ (weight + 1.5 * b @ a).T + plain.bias
    torch.testing.assert_close(layer(x), expected)
    up = torch.randn(7, 5)
    wanted: tuple[Tensor, ...] = torch.autograd.grad(expected, [x, a, b], up)
    given = torch.autograd.grad(layer(x), [x, layer.lora_A.weight, layer.lora_B.weight], up)
    torch.testing.assert_close(given, wanted)
    assert layer.merged() is plain
    torch.testing.assert_close(plain.weight, weight + 1.5 * b.detach() @ a.detach())
    torch.testing.assert_close(plain(x), expected)


@pytest.mark.parametrize("rank", [2, {"mid_block.attentions.0": 4, "up_blocks.0.attentions.0": 2, "up_blocks.0.attentions.1": 2}])
def test_deltas_are_an_adapter_that_diffusers_loads(tmp_path: Path, rank: int | dict[str, int]) -> None:
    model, base = tiny_model(), tiny_model()
    chosen = low_rank_parameters(model.unet, rank if isinstance(rank, dict) else None, rank=rank)
    with torch.no_grad():
        for parameter in chosen.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    deltas = chosen.merge()
    assert len(deltas) == len(list(chosen.parameters()))
    assert "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight" in deltas
    save_file(deltas, tmp_path / "deltas.safetensors")
    base.unet.load_lora_adapter(load_file(tmp_path / "deltas.safetensors"), prefix=None)
    x, told = torch.randn(2, *model.latent_shape), model.encode(["a", "b"]).embeddings_BLE
    with torch.no_grad():
        torch.testing.assert_close(base.predict_noise(x, 500, told), model.predict_noise(x, 500, told), rtol=1e-4, atol=1e-4)
        assert (base.predict_noise(x, 500, told) - tiny_model().predict_noise(x, 500, told)).abs().max() > 1e-2
