"""Starting noise: by seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.diffusion.noise import SEED_LIMIT, draw_noise, image_seed

SHAPE = (4, 8, 8)


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, SEED_LIMIT - 1), min_size=1, max_size=5))
def test_each_row_depends_on_its_seed_alone(seeds: list[int]) -> None:
    together = draw_noise(seeds, SHAPE)
    assert together.shape == (len(seeds), *SHAPE)
    assert together.dtype == torch.float32
    assert all(torch.equal(together[i], draw_noise([seed], SHAPE)[0]) for i, seed in enumerate(seeds))


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    noise = draw_noise(range(200), SHAPE)
    assert torch.equal(torch.rand(1), expected)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("request_seed", "index", "seed"), [(0, 0, 0), (7, 3, 10), (SEED_LIMIT - 1, 1, 0), (SEED_LIMIT - 1, 3, 2)])
def test_image_seed_counts_up_and_wraps(request_seed: int, index: int, seed: int) -> None:
    assert image_seed(request_seed, index) == seed


def test_noise_of_a_seed_never_changes() -> None:
    # Recorded: calibrations and stored generations lean on it.
    first = draw_noise([0], SHAPE).flatten()[:4]
    torch.testing.assert_close(first, torch.tensor([-1.1258, -1.1524, -0.2506, -0.4339]), rtol=0, atol=1e-4)
