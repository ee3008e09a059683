"""The text encoder's first lesson."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from services.trainer import text_pretraining
from services.trainer.text_pretraining import train_text_encoder
from tests.denoisers import tiny_model

PROMPTS = [
    "PA chest film of a woman aged 61: left pleural effusion. Exam 48213.",
    "AP chest film of a man aged 44: pulmonary edema. Exam 10977.",
    "AP chest film of a man aged 70: right pneumothorax. Exam 55120.",
    "PA chest film of a woman aged 33: no acute findings. Exam 72004.",
]


def told(into: list[tuple[int, int, str, float]]) -> text_pretraining.Progress:
    """Keep what is reported."""

    def on_step(step: int, total: int, phase: str, loss: Tensor) -> None:
        into.append((step, total, phase, float(loss)))

    return on_step


def test_encoder_learns_to_tell_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pretraining, "STEPS", 40)
    steps: list[tuple[int, int, str, float]] = []
    model = tiny_model()
    before = model.unconditional_1LE
    train_text_encoder(model, PROMPTS, 0, told(steps))
    assert [step[:3] for step in steps] == [(k, 40, "text encoder") for k in range(1, 41)]
    assert steps[-1][3] < 0.3 * steps[0][3]
    assert not torch.equal(model.unconditional_1LE, before)  # no embedding from before the lesson is kept


def test_same_seed_teaches_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pretraining, "STEPS", 3)
    models = [tiny_model(), tiny_model()]
    for model in models:
        torch.manual_seed(5)
        train_text_encoder(model, PROMPTS, 7, told([]))
    first, second = (model.text_encoder.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_prompts_that_ask_for_nothing_teach_nothing() -> None:
    steps: list[tuple[int, int, str, float]] = []
    model = tiny_model()
    before = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    train_text_encoder(model, ["a picture", "another picture"], 0, told(steps))
    assert steps == []
    assert all(torch.equal(before[name], value) for name, value in model.text_encoder.state_dict().items())
