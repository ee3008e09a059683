"""Looks at a model that learns: the averaged weights are seen, and afterwards those that learn are there again."""

from __future__ import annotations

import pytest
import torch

from services.trainer.undisturbed import undisturbed
from shared.diffusion.optimisation import Optimisation, Run
from tests.denoisers import tiny_model


def test_look_sees_the_average_and_leaves_the_weights_as_they_were_however_it_ends() -> None:
    model = tiny_model()
    weight = next(model.text_encoder.parameters())
    run = Run([model.text_encoder], lambda _step: (weight * torch.rand(())).square().sum(), Optimisation(4, 1e-2, ema_decay=0.9))
    for _ in range(3):
        run.advance()
    model.weights_changed()
    weights, empty_prompt = [p.detach().clone() for p in run.parameters], model.unconditional_1LE

    def look() -> None:
        assert run.average is not None
        assert all(torch.equal(p, mean) for p, mean in zip(run.parameters, run.average.average, strict=True))
        assert not torch.equal(model.unconditional_1LE, empty_prompt)
        raise InterruptedError

    with pytest.raises(InterruptedError), undisturbed(run, model):
        look()
    assert all(torch.equal(p, kept) for p, kept in zip(run.parameters, weights, strict=True))
    model.text_encoder.eval()
    assert torch.equal(model.unconditional_1LE, empty_prompt)
