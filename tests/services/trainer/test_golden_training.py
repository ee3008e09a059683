"""A tiny training of all phases with its recorded losses and weights: what is said to change nothing keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from services.trainer import text_pretraining, training
from services.trainer.denoising_loss import Recipe
from services.trainer.text_pretraining import train_text_encoder
from services.trainer.training import train_autoencoder, train_denoiser
from services.trainer.training_set import TrainingSet
from tests.denoisers import IMAGE_SIZE, tiny_model

if TYPE_CHECKING:
    from shared.diffusion.model import Model

PROMPTS = [
    "PA chest film of a woman aged 61: left pleural effusion. Exam 48213.",
    "AP chest film of a man aged 44: pulmonary edema. Exam 10977.",
    "AP chest film of a man aged 70: right pneumothorax. Exam 55120.",
    "PA chest film of a woman aged 33: no acute findings. Exam 72004.",
]
# Taken before checkpoints existed. Regenerating them is a commit of its own, with the reason.
LOSSES = {
    "autoencoder": [1.263565, 1.094976, 1.070117, 0.974980, 0.830514, 0.797174],
    "text encoder": [0.768213, 0.733518, 0.580986, 0.554065, 0.508558, 0.468118],
    "denoiser": [1.122740, 1.116803, 0.985270, 0.906609, 0.817748, 0.681592, 0.733396, 0.729349, 0.663308, 0.673933],
}
# Σ|w| of every part at the end.
WEIGHTS = {"vae": 8886.605124, "text_encoder": 7009.100472, "unet": 69129.764012}


def trained() -> tuple[Model, dict[str, list[float]]]:
    """The model of all three phases, and the losses of each."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 4))
    images = np.kron(coarse, np.ones((IMAGE_SIZE // 4, IMAGE_SIZE // 4))).astype(np.uint8)
    films = TrainingSet(images, PROMPTS, np.array([1, 1, 1, 5]))
    model = tiny_model(0)
    torch.manual_seed(3)
    losses: dict[str, list[float]] = {}

    def tell(_step: int, _total: int, phase: str, loss: torch.Tensor) -> None:
        losses.setdefault(phase, []).append(float(loss))

    train_autoencoder(model, films, 3, tell)
    train_text_encoder(model, PROMPTS, 3, tell)
    train_denoiser(model, films, Recipe(steps=10, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=3), tell)
    return model, losses


def test_losses_and_weights_of_all_phases_are_the_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 6)
    monkeypatch.setattr(text_pretraining, "STEPS", 6)
    model, losses = trained()
    assert list(losses) == list(LOSSES)
    for phase, recorded in LOSSES.items():
        assert losses[phase] == pytest.approx(recorded, rel=2e-3), phase
    sums = {part: sum(float(w.double().abs().sum()) for w in getattr(model, part).state_dict().values()) for part in WEIGHTS}
    assert sums == pytest.approx(WEIGHTS, rel=1e-4)
