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
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Checkpoints, Optimisation, optimise
from shared.diffusion.random_streams import NumpyStream
from shared.imaging.prompts import parse_prompt

STEPS: Final = 300
BATCH: Final = 64
RATE: Final = 2e-3


class ReadingLoss:
    """How badly the items that a prompt asks to see can be read off its rows, the end marker's and those behind it."""

    def __init__(self, model: Model, head: nn.Linear, prompts: Sequence[str], targets_BK: Tensor, seed: int) -> None:
        self.encoder = model.text_encoder
        self.head = head
        self.targets_BK = targets_BK
        self.tokens_BL = model.tokenize(prompts, truncate=True)
        self.ended_BL = (self.tokens_BL == model.tokenizer.eos_token_id).cumsum(1) > 0
        self.order = np.random.default_rng([seed, 4])

    def __call__(self, _step: int) -> Tensor:
        """The loss of the next batch."""
        rows = self.order.integers(len(self.tokens_BL), size=BATCH)
        embeddings_BLE = self.encoder(self.tokens_BL[rows])[0]
        read_BLK = self.head(embeddings_BLE)[self.ended_BL[rows]]
        lengths_B = self.ended_BL[rows].sum(1)
        return F.binary_cross_entropy_with_logits(read_BLK, self.targets_BK[rows].repeat_interleave(lengths_B, 0))

    def state(self) -> State:
        """Where the order is."""
        return NumpyStream(self.order).state()

    def restore(self, state: State) -> None:
        """Go on from there."""
        NumpyStream(self.order).restore(state)


def train_text_encoder(model: Model, prompts: Sequence[str], seed: int, on_step: Progress, checkpoints: Checkpoints | None = None) -> None:
    """Fit the encoder so that findings, sides and views can be read off its rows from the end marker on."""
    asked = [parse_prompt(prompt) for prompt in prompts]
    items = sorted({item for row in asked for item in row}, key=str)
    if not items:
        return
    targets_BK = torch.tensor([[float(item in row) for item in items] for row in asked]).to(model.device)
    head = nn.Linear(int(model.text_encoder.config.hidden_size), len(items)).to(model.device)
    loss = ReadingLoss(model, head, prompts, targets_BK, seed)
    plan = Optimisation(STEPS, RATE)
    modules = [model.text_encoder, head]
    optimise(modules, loss, plan, lambda step, value: on_step(step + 1, plan.steps, "text encoder", value), checkpoints)
    model.weights_changed()
