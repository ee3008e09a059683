"""Layers that learn by their singular values (SV-DIFF, Han et al. 2023): W = U diag(relu(Σ + δ)) Vᵀ, of which δ alone moves.

The decomposition is taken once. A pass multiplies by the factors one after another, or by W where making it costs less.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.learning_parameters import LearningParameters
from services.trainer.parameters.stand_in import StandIn


class SpectralLayer(StandIn):
    """A layer of a weight that is a matrix, its rows the outputs."""

    def __init__(self, plain: nn.Linear | nn.Conv2d) -> None:
        """Take the layer's weight apart; what else it has stays as it is."""
        super().__init__()
        weight = plain.weight.detach()
        self.shape = weight.shape
        left, singular_values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        self.register_buffer("left", left.contiguous())
        self.register_buffer("singular_values", singular_values)
        self.register_buffer("right", right.contiguous())
        self.delta = nn.Parameter(torch.zeros_like(singular_values))
        self.bias = plain.bias
        plain.register_parameter("weight", None)
        self.plain = (plain,)  # in a tuple: its bias is this module's now

    left: Tensor
    singular_values: Tensor
    right: Tensor

    @property
    def scales(self) -> Tensor:
        """The singular values as they are now."""
        return torch.relu(self.singular_values + self.delta)

    @property
    def weight(self) -> Tensor:
        """W as it is now."""
        return ((self.left * self.scales) @ self.right).view(self.shape)

    def is_cheaper_whole(self, positions: int) -> bool:
        """Whether a pass and its gradients cost fewer products with W than with its factors.

        Factors: U and V for the answer, and again for the input's gradient. W: made, and its gradient led back to δ, whatever the
        batch; then the answer, the input's gradient and W's own.
        """
        (outs, rank), ins = self.left.shape, self.right.shape[1]
        return 3 * positions * outs * ins + 2 * outs * rank * ins < 2 * positions * rank * (outs + ins)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What the layer answers."""

    def stuck(self) -> int:
        """The singular values below zero: relu passes them no gradient."""
        return int((self.singular_values + self.delta < 0).sum())

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The plain layer."""
        (plain,) = self.plain
        plain.weight = nn.Parameter(self.weight)
        return plain


class SpectralLinear(SpectralLayer):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """W x + b."""
        if self.is_cheaper_whole(x.shape[:-1].numel()):
            return functional.linear(x, self.weight, self.bias)
        turned = functional.linear(x, self.right)
        return functional.linear(turned * self.scales.to(turned.dtype), self.left, self.bias)


class SpectralConv2d(SpectralLayer):
    """A convolution: Vᵀ has its kernels, U is one of single pixels."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(plain)
        self.stride, self.padding, self.dilation = plain.stride, plain.padding, plain.dilation

    def forward(self, x: Tensor) -> Tensor:
        """W * x + b."""
        if self.is_cheaper_whole(x.shape[0] * x.shape[2:].numel() // (self.stride[0] * self.stride[1])):
            return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        turned = functional.conv2d(x, self.right.view(-1, *self.shape[1:]), None, self.stride, self.padding, self.dilation)
        scaled = turned * self.scales.to(turned.dtype).view(-1, 1, 1)
        return functional.conv2d(scaled, self.left.view(*self.left.shape, 1, 1), self.bias)


class SpectralNorm(StandIn):
    """A norm, whose weight is a matrix of one row: it has one singular value, its length."""

    def __init__(self, plain: nn.GroupNorm | nn.LayerNorm) -> None:
        super().__init__()
        weight = plain.weight.detach()
        self.register_buffer("length", weight.norm().view(1))
        self.register_buffer("direction", functional.normalize(weight, dim=0))
        self.delta = nn.Parameter(torch.zeros_like(self.length))
        self.bias = plain.bias
        plain.register_parameter("weight", None)
        self.plain = (plain,)

    length: Tensor
    direction: Tensor

    @property
    def weight(self) -> Tensor:
        """The weight as it is now."""
        return torch.relu(self.length + self.delta) * self.direction

    def forward(self, x: Tensor) -> Tensor:
        """The normed input, weighed."""
        (plain,) = self.plain
        if isinstance(plain, nn.GroupNorm):
            return functional.group_norm(x, plain.num_groups, self.weight, self.bias, plain.eps)
        return functional.layer_norm(x, plain.normalized_shape, self.weight, self.bias, plain.eps)

    def stuck(self) -> int:
        """The length, where it is below zero."""
        return int((self.length + self.delta < 0).sum())

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The plain norm."""
        (plain,) = self.plain
        plain.weight = nn.Parameter(self.weight)
        return plain


def spectral(layer: nn.Module) -> SpectralLayer | SpectralNorm | None:
    """What stands in for a layer; None where there is no weight to take apart."""
    match layer:
        case nn.Linear():
            return SpectralLinear(layer)
        case nn.Conv2d():
            return SpectralConv2d(layer)
        case nn.GroupNorm() | nn.LayerNorm() if layer.weight is not None:
            return SpectralNorm(layer)
        case _:
            return None


def singular_value_parameters(
    unet: nn.Module, blocks: Collection[str] | None = None, norm_learning_rate: float | None = None
) -> LearningParameters:
    """The δ of all linear layers, convolutions and norms; inside transformer blocks, of the named attention modules' alone.

    Norms may learn at a rate of their own (Dutt et al. 2025: 1e-6).
    """
    fixed = tuple(f"{name}.transformer_blocks." for name in attention_modules(unet).keys() - attention_modules(unet, blocks).keys())
    deltas: list[nn.Parameter] = []
    rates: dict[nn.Parameter, float] = {}
    for name, layer in list(unet.named_modules()):
        stand_in = None if name.startswith(fixed) else spectral(layer)
        if stand_in is not None:
            unet.set_submodule(name, stand_in)
            deltas.append(stand_in.delta)
            if isinstance(stand_in, SpectralNorm) and norm_learning_rate is not None:
                rates[stand_in.delta] = norm_learning_rate
    return LearningParameters(unet, deltas, rates=rates)
