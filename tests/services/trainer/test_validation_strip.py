"""Validation strips: the averaged model's pictures, which leave the training as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from services.trainer import validation_strip
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.training_set import TrainingSet
from services.trainer.uploads import Uploads
from services.trainer.validation_strip import ValidationStrip, offer_strip
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.optimisation import Run
from shared.errors import InvalidRequestError
from shared.imaging.png import decode_png
from shared.storage import DirectoryStore
from tests.denoisers import IMAGE_SIZE, PROMPTS, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from shared.diffusion.model import Model

RECIPE = Recipe(steps=6, batch_size=2, learning_rate=1e-3, prompt_dropout=0.1, seed=0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_strip, "STEPS", 2)


def run_of(model: Model) -> Run:
    images = np.random.default_rng(0).integers(0, 256, (4, IMAGE_SIZE, IMAGE_SIZE)).astype(np.uint8)
    loss = DenoisingLoss(model, TrainingSet(images, PROMPTS, np.ones(4, dtype=np.int64)), RECIPE)
    run = Run(RECIPE.modules(model), loss, RECIPE.optimisation)
    run.modules.train()
    return run


def strip_of(model: Model, every: int = 2) -> ValidationStrip:
    return ValidationStrip(model, PROMPTS[:3], every=every, seed=7, guided=True)


def test_strip_shows_what_the_finished_model_would_draw() -> None:
    model = tiny_model()
    run = run_of(model)
    for _ in range(3):
        run.advance()
    shown = decode_png(strip_of(model).draw(run), max_pixels=10**6)
    run.finish()
    model.weights_changed()
    drawn = generate_images(model, PROMPTS[:3], images_per_prompt=1, seed=7, steps=2, guidance=ClassifierFreeGuidance(3.0))
    assert shown.shape == (IMAGE_SIZE, 3 * IMAGE_SIZE)
    assert np.array_equal(shown, np.concatenate(list(drawn), axis=1))


def test_training_with_strips_ends_with_the_same_bits() -> None:
    models = [tiny_model(), tiny_model()]
    states = []
    for model, watched in zip(models, (False, True), strict=True):
        torch.manual_seed(3)
        run = run_of(model)
        for _ in range(4):
            run.advance()
            if watched:
                strip_of(model).draw(run)
                assert run.modules.training
        states.append(run.state().copied())
    assert states[0].facts == states[1].facts
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


def test_strips_are_due_every_so_many_steps_and_stored_by_step(tmp_path: Path) -> None:
    model, store, uploads = tiny_model(), DirectoryStore(tmp_path), Uploads()
    run = run_of(model)
    strip = strip_of(model)
    for _ in range(5):
        run.advance()
        offer_strip(strip, run, store=store, job_id="job_1", uploads=uploads)
    assert uploads.wait(30)
    uploads.close()
    keys = [found.key for found in store.list(prefix="checkpoints/")]
    assert keys == ["checkpoints/job_1/validation/2.png", "checkpoints/job_1/validation/4.png"]
    first, second = (decode_png(store.get(key=key), max_pixels=10**6) for key in keys)
    assert not np.array_equal(first, second)


def test_prompt_that_the_encoder_cannot_read_is_refused_by_field() -> None:
    with pytest.raises(InvalidRequestError, match="tokens") as caught:
        ValidationStrip(tiny_model(), [PROMPTS[0], "effusion " * 200], every=1, seed=0, guided=False)
    assert caught.value.field == "validation.prompts.1"
