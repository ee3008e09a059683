"""Densities of timesteps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from services.trainer import timesteps
from services.trainer.timesteps import U_SHAPE, u_shaped_timesteps, uniform_timesteps


def test_timesteps_are_uniform_by_default() -> None:
    drawn = uniform_timesteps(10_000, 1000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    assert np.histogram(drawn.numpy(), bins=10, range=(0, 1000))[0] == pytest.approx([1000] * 10, rel=0.12)


def test_u_shaped_timesteps_follow_the_closed_form() -> None:
    drawn = u_shaped_timesteps(200_000, 1000, torch.Generator().manual_seed(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    edges = np.linspace(0, 1, 21)
    below = 0.5 + np.sinh(U_SHAPE * (edges - 0.5)) / (2 * math.sinh(U_SHAPE / 2))  # the integral of the density
    assert np.histogram(drawn.numpy() / 1000, bins=edges)[0] == pytest.approx(200_000 * np.diff(below), rel=0.05)
    assert math.cosh(U_SHAPE / 2) == pytest.approx(3.762, abs=1e-3)


def test_flat_u_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timesteps, "U_SHAPE", 1e-6)
    drawn = u_shaped_timesteps(20_000, 10, torch.Generator().manual_seed(0))
    assert np.bincount(drawn.numpy(), minlength=10) == pytest.approx([2000] * 10, rel=0.1)


def test_same_generator_draws_the_same() -> None:
    one, other = (u_shaped_timesteps(50, 1000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
