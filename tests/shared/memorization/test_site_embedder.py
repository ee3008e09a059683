"""The site embedder: its loss by hand, its codes, its augmentations, and that it learns what a copy is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.memorization.site_embedder import CODE, TEMPERATURE, SiteEmbedder, augmented, nt_xent, train_site_embedder

SIDE = 32


def quiet(_step: int, _loss: torch.Tensor) -> None:
    """No progress wanted."""


def films(patients: int, each: int, seed: int = 0) -> tuple[NDArray[np.uint8], list[str]]:
    """Smooth random pictures; those of a patient share most of their shapes."""
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")

    def blobs(count: int, strength: float) -> NDArray[np.float64]:
        canvas = np.zeros((SIDE, SIDE))
        for _ in range(count):
            cu, cv, width = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(0.15, 0.4)
            canvas += rng.choice([-1, 1]) * strength * np.exp(-((u - cu) ** 2 + (v - cv) ** 2) / width**2)
        return canvas

    pictures, names = [], []
    for patient in range(patients):
        anatomy = blobs(8, 0.4)
        for _ in range(each):
            pictures.append(np.clip((0.5 + anatomy + blobs(4, 0.3)) * 255, 0, 255).astype(np.uint8))
            names.append(f"p{patient}")
    return np.stack(pictures), names


@pytest.fixture(scope="module")
def trained() -> SiteEmbedder:
    """An embedder after a short training."""
    images, patients = films(40, 2)
    return train_site_embedder(images, patients, seed=0, on_step=quiet, steps=60)


def test_loss_equals_hand_computation() -> None:
    left = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    own, other = np.exp(0.8 / TEMPERATURE), np.exp(0.6 / TEMPERATURE)
    assert float(nt_xent(left, right)) == pytest.approx(-np.log(own / (own + other)), rel=1e-5)


def test_hard_negatives_join_the_denominator() -> None:
    left, right, hard = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]]), torch.tensor([[0.9, 0.1]])
    own, negative = np.exp(0.8 / TEMPERATURE), np.exp(0.9 / TEMPERATURE)
    assert float(nt_xent(left, right)) == pytest.approx(0.0, abs=1e-6)
    assert float(nt_xent(left, right, hard)) == pytest.approx(-np.log(own / (own + negative)), rel=1e-5)
    assert float(nt_xent(left, right, hard[:0])) == pytest.approx(0.0, abs=1e-6)


def test_codes_are_centred_and_of_unit_length(trained: SiteEmbedder) -> None:
    for codes in trained.embed(films(4, 2, seed=1)[0]):
        assert codes.shape == (8, CODE)
        torch.testing.assert_close(codes.mean(1), torch.zeros(8), rtol=0, atol=1e-6)
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(8), rtol=0, atol=1e-5)


def test_dot_product_of_codes_is_their_correlation(trained: SiteEmbedder) -> None:
    copy_codes, _ = trained.embed(films(2, 1, seed=2)[0])
    correlation = np.corrcoef(copy_codes.numpy())[0, 1]
    assert float(copy_codes[0] @ copy_codes[1]) == pytest.approx(correlation, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_embedding_does_not_depend_on_the_batch(trained: SiteEmbedder, batch_size: int) -> None:
    images, _ = films(5, 2, seed=3)
    for whole, parts in zip(trained.embed(images), trained.embed(images, batch_size=batch_size), strict=True):
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)


def test_same_seed_gives_same_weights_another_seed_others() -> None:
    images, patients = films(6, 2)
    first, again, other = (train_site_embedder(images, patients, seed, quiet, steps=3) for seed in (1, 1, 2))
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.copy_head.weight, other.copy_head.weight)


def test_each_step_is_reported() -> None:
    images, patients = films(3, 1)
    steps: list[int] = []
    train_site_embedder(images, patients, 0, lambda step, _loss: steps.append(step), steps=4)
    assert steps == [0, 1, 2, 3]


def test_copies_lie_closer_than_strangers_and_patients_closer_than_strangers(trained: SiteEmbedder) -> None:
    images, _ = films(12, 2, seed=9)  # patients that it has not seen
    copies = augmented(torch.from_numpy(images).float() / 255, torch.Generator().manual_seed(5))
    code, identity = trained.embed(images)
    copied, _ = trained.embed((copies * 255).round().to(torch.uint8).numpy())
    similarity = code @ copied.T
    own = similarity.diagonal()
    strangers = similarity[~torch.eye(24, dtype=torch.bool)].reshape(24, 23)
    assert float((own > strangers.max(1).values).float().mean()) >= 0.9
    same_patient = torch.block_diag(*[torch.ones(2, 2)] * 12).bool() & ~torch.eye(24, dtype=torch.bool)
    pairs = identity @ identity.T
    assert float(pairs[same_patient].mean()) > float(pairs[~same_patient & ~torch.eye(24, dtype=torch.bool)].mean()) + 0.2


def test_augmentation_stays_grey_and_close_and_follows_its_generator() -> None:
    images = torch.from_numpy(films(4, 1)[0]).float() / 255
    first, again, other = (augmented(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert float((first - images).abs().mean()) < 0.12


def test_augmentation_never_flips() -> None:
    images = torch.zeros(64, SIDE, SIDE)
    images[:, :, SIDE * 3 // 4 :] = 1.0  # bright on the right
    moved = augmented(images, torch.Generator().manual_seed(0))
    assert bool((moved[:, :, -6:].mean((1, 2)) > moved[:, :, :6].mean((1, 2)) + 0.5).all())


def test_one_patient_alone_can_be_trained_on() -> None:
    images, patients = films(1, 1)
    assert train_site_embedder(images, patients, 0, quiet, steps=2).embed(images)[0].shape == (1, CODE)
