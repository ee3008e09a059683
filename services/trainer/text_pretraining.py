"""A first lesson for the text encoder: say, from the prompt alone, what is asked to be seen.

Stable Diffusion's text encoder comes trained; from scratch, a denoiser would spend most of its training finding out which words
matter. B batch, L tokens, E embedding features, K items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.training import Progress
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Optimisation, optimise
from shared.imaging.prompts import parse_prompt

STEPS: Final = 300
BATCH: Final = 64
RATE: Final = 2e-3


def train_text_encoder(model: Model, prompts: Sequence[str], seed: int, on_step: Progress) -> None:
    """Fit the encoder so that findings, sides and views can be read off its rows from the end marker on."""
    asked = [parse_prompt(prompt) for prompt in prompts]
    items = sorted({item for row in asked for item in row}, key=str)
    if not items:
        return
    targets_BK = torch.tensor([[float(item in row) for item in items] for row in asked]).to(model.device)
    tokens_BL = model.tokenize(prompts, truncate=True)
    ended_BL = (tokens_BL == model.tokenizer.eos_token_id).cumsum(1) > 0
    head = nn.Linear(int(model.text_encoder.config.hidden_size), len(items)).to(model.device)
    order = np.random.default_rng([seed, 4])

    def loss(_step: int) -> Tensor:
        rows = order.integers(len(prompts), size=BATCH)
        embeddings_BLE = model.text_encoder(tokens_BL[rows])[0]
        read_BLK = head(embeddings_BLE)[ended_BL[rows]]
        lengths_B = ended_BL[rows].sum(1)
        return F.binary_cross_entropy_with_logits(read_BLK, targets_BK[rows].repeat_interleave(lengths_B, 0))

    plan = Optimisation(STEPS, RATE)
    optimise([model.text_encoder, head], loss, plan, lambda step, value: on_step(step + 1, plan.steps, "text encoder", value))
    model.weights_changed()
