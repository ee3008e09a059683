"""Which words carry the memorization score: gradients of d with respect to each token's embedding (Wen et al., corrected).

B batch, L tokens, E embedding features, S seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise
from shared.memorization.magnitude import (
    FORWARD_BATCH,
    UnconditionalCache,
    each_prompt_and_seed,
    first_timestep,
    noise_prediction_magnitude,
)

GRADIENT_VALUES: Final = 65_536  # of latents in one backward pass: 4 rows of Stable Diffusion's at 512 pixels


@dataclass(frozen=True)
class WordWeight:
    """A word of the prompt and its share of the score's gradient; the shares of one prompt sum to 1."""

    text: str
    weight: float


def token_gradients(model: Model, prompts: Sequence[str], seeds: Sequence[int], cache: UnconditionalCache) -> Tensor:
    """mean_j ‖∂d_j/∂e_c[k]‖₂ for every prompt and token, B×L, at step 0.

    Per image, not over the stacked batch; ε_u is a constant; the gradient is taken at the text encoder's output.
    Cost: one forward and one backward row a prompt and seed.
    """
    noise = draw_noise(seeds, model.latent_shape).to(model.device)
    eps_uncond = cache.get(model, seeds)
    embeddings_BLE = model.encode(prompts).embeddings_BLE
    t = first_timestep(model)

    def look(prompt_rows: list[int], seed_rows: list[int]) -> Tensor:
        """The norms of some pairs of prompt and seed, each with a leaf of its own: gradients stay apart."""
        with torch.enable_grad():
            e_c = embeddings_BLE[prompt_rows].requires_grad_()
            d_B = noise_prediction_magnitude(model.predict_noise(noise[seed_rows], t, e_c), eps_uncond[seed_rows])
            (gradient_BLE,) = torch.autograd.grad(d_B.sum(), e_c)
        return torch.as_tensor(gradient_BLE.norm(dim=2))

    return each_prompt_and_seed(look, len(prompts), len(seeds), gradient_batch(model)).mean(1)


def gradient_batch(model: Model) -> int:
    """Rows of one forward and backward pass, whose activations stay until its end."""
    return max(1, min(FORWARD_BATCH, GRADIENT_VALUES // math.prod(model.latent_shape)))


Span = tuple[int, int]


def attribute(model: Model, prompts: Sequence[str], seeds: Sequence[int], cache: UnconditionalCache) -> list[list[WordWeight]]:
    """Weights of each prompt's words, in order; pieces of one word are merged by their maximum, markers and padding dropped."""
    gradients_BL = token_gradients(model, prompts, seeds, cache).cpu()
    answer = []
    for prompt, gradient_L in zip(prompts, gradients_BL, strict=True):
        spans = [match.span() for match in re.finditer(r"\S+", prompt)]
        weights = span_weights(model, prompt, gradient_L, spans)
        answer.append([WordWeight(prompt[start:end], weight) for (start, end), weight in zip(spans, weights, strict=True)])
    return answer


def span_weights(model: Model, prompt: str, gradient_L: Tensor, spans: Sequence[Span]) -> list[float]:
    """Each span's share of the gradient: the strongest token that overlaps it, over the sum of all spans."""
    offsets = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    gradient = gradient_L.tolist()
    strongest = [
        max((gradient[k] for k, (start, end) in enumerate(offsets) if start < end and start < span_end and end > span_start), default=0.0)
        for span_start, span_end in spans
    ]
    total = sum(strongest) or 1.0
    return [weight / total for weight in strongest]
