"""Looks at a model that learns: nothing of the training moves, however the look ends."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from shared.diffusion.optimisation import Optimisation, Run
from shared.diffusion.undisturbed import undisturbed
from tests.denoisers import tiny_model


def run_of(model: torch.nn.Module) -> Run:
    weight = next(model.parameters())
    return Run([model], lambda _step: (weight * torch.rand(())).square().sum(), Optimisation(4, 1e-2, ema_decay=0.9))


def test_look_at_the_average_leaves_weights_streams_modes_and_steps_as_they_were() -> None:
    ends = []
    for looks in (False, True):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002 - the stream that libraries draw from
        model = tiny_model()
        run = run_of(model.unet)
        run.modules.train()
        for _ in range(3):
            run.advance()
            if looks:
                weights = [p.detach().clone() for p in run.parameters]
                with run.averaged(), undisturbed(model):
                    assert run.average is not None
                    assert all(torch.equal(p, mean) for p, mean in zip(run.parameters, run.average.average, strict=True))
                    assert not model.unet.training
                    assert not torch.is_grad_enabled()
                    torch.rand(5), random.random(), np.random.rand()  # noqa: NPY002 - what an evaluation may draw
                assert model.unet.training
                assert all(torch.equal(p, kept) for p, kept in zip(run.parameters, weights, strict=True))
        ends.append(run.state().copied())
    assert ends[0].facts == ends[1].facts
    assert all(torch.equal(tensor, ends[1].tensors[name]) for name, tensor in ends[0].tensors.items())


def test_look_that_is_broken_off_leaves_all_as_it_was() -> None:
    model = tiny_model()
    model.unet.train()
    before = torch.get_rng_state()
    stale: list[torch.Tensor] = []

    def look() -> None:
        stale.append(model.unconditional_1LE)
        torch.rand(3)
        raise InterruptedError

    with pytest.raises(InterruptedError), undisturbed(model):
        look()
    assert model.unet.training
    assert not model.text_encoder.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.unconditional_1LE is not stale[0]
