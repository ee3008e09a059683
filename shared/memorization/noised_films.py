"""What a denoiser predicts of known films that noise was added to, on one grid of timesteps and noises for all films and models.

Magnitudes are those of Wen et al. (ICLR 2024) as a training meets them, losses those of membership attacks (Yeom et al., CSF 2018).
N films, K pairs of timestep and noise, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared.diffusion.denoise import predict_halves
from shared.diffusion.generation import BatchObserver, batch_size
from shared.diffusion.model import Model
from shared.diffusion.noise import draw_noise, image_seed
from shared.memorization.magnitude import noise_prediction_magnitude

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NoisedFilms:
    """Of each film and pair: d = ‖ε_c − ε_u‖₂, and the mean squared error of ε_c."""

    magnitudes_NK: Floats
    losses_NK: Floats


def grid_timesteps(pairs: int, timesteps: int) -> list[int]:
    """The middles of so many equal parts of the schedule: 50, 150, … 950 for ten of a thousand."""
    return [(2 * pair + 1) * timesteps // (2 * pairs) for pair in range(pairs)]


@torch.no_grad()
def look_at_noised(
    model: Model, films_NHW: Images, prompts: Sequence[str], *, pairs: int, seed: int, on_batch: BatchObserver = lambda _count: None
) -> NoisedFilms:
    """Predict each film's noise for each pair, with its prompt and without: 2·K forward passes a film; prompts too long are cut.

    Pair k has the noise of seed + k, whatever the film: members and others are looked at alike.
    """
    noises_KCHW = draw_noise([image_seed(seed, pair) for pair in range(pairs)], model.latent_shape).to(model.device)
    timesteps_K = grid_timesteps(pairs, len(model.alphas_cumprod))
    size = batch_size(model)
    magnitudes, losses = [], []
    for start in range(0, len(prompts), size):
        films = slice(start, start + size)
        z_0 = model.to_latents(torch.from_numpy(films_NHW[films]).float() / 255)
        embeddings_BLE = model.encode(prompts[films], truncate=True).embeddings_BLE
        for t, epsilon in zip(timesteps_K, noises_KCHW, strict=True):
            alpha_bar = model.alphas_cumprod[t]
            eps_uncond, eps_cond = predict_halves(model, alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * epsilon, t, embeddings_BLE)
            magnitudes.append(noise_prediction_magnitude(eps_cond, eps_uncond))
            losses.append((eps_cond - epsilon).square().mean((1, 2, 3)))
        on_batch(len(z_0))
    return NoisedFilms(_by_film(magnitudes, pairs), _by_film(losses, pairs))


def _by_film(parts: Sequence[torch.Tensor], pairs: int) -> Floats:
    """One batch of films after another, each with all pairs in turn, as N×K."""
    batches = [torch.stack(list(parts[start : start + pairs]), 1) for start in range(0, len(parts), pairs)]
    return np.asarray(torch.cat(batches).double().cpu().numpy())
