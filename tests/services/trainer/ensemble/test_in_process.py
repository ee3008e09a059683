"""Ensembles in one process: one shard is plain training, and the order of shards changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.in_process import EnsembleOutcome, copied, train_ensemble
from services.trainer.ensemble.rounds import Ensemble
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.skip_counts import SkipCounts
from services.trainer.training import train_denoiser
from shared.diffusion.model import Model
from tests.denoisers import tiny_model
from tests.services.trainer.ensemble.test_rounds import (
    ADAPTERS,
    FILMS,
    RANDOM_CAPTIONS,
    SEVERAL_CAPTIONS,
    SINGULAR_VALUES,
    WITH_CONTROL,
    Rounds,
    films,
    recipe,
    rule,
    same,
)


def trained(wishes: Recipe, asked: EnsembleRule, steps: list[tuple[int, int]] | None = None) -> tuple[Model, EnsembleOutcome]:
    model = tiny_model()
    torch.manual_seed(5)

    def tell(step: int, of: int, _phase: str, _loss: Tensor) -> None:
        if steps is not None:
            steps.append((step, of))

    return model, train_ensemble(model, films(), wishes, asked, tell)


def nothing(*_facts: Any) -> None:
    """Told, and forgotten."""


def plainly(wishes: Recipe) -> tuple[Model, SkipCounts, dict[str, Tensor]]:
    model = tiny_model()
    torch.manual_seed(5)
    skips = SkipCounts(films())
    deltas = train_denoiser(model, films(), wishes, nothing, skips=skips)
    return model, skips, deltas


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="plain"),
        pytest.param(WITH_CONTROL | {"captions": (RANDOM_CAPTIONS,)}, id="control and captions"),
        pytest.param(SINGULAR_VALUES, id="svdiff"),
        pytest.param(ADAPTERS | {"captions": (SEVERAL_CAPTIONS,)}, id="lora and several captions"),
        pytest.param({"ema_decay": None, "gradient_checkpointing": True}, id="without average"),
    ],
)
def test_one_shard_is_plain_training_bit_for_bit(changed: dict[str, Any], rounds: int) -> None:
    wishes = recipe(**changed)
    plain, skips, deltas = plainly(wishes)
    steps: list[tuple[int, int]] = []
    model, outcome = trained(wishes, rule(shards=1, rounds=rounds), steps)
    assert same(model, plain)
    assert outcome.skips.totals() == skips.totals()
    assert torch.equal(outcome.skips.visits_N, skips.visits_N)
    assert outcome.deltas.keys() == deltas.keys()
    assert all(torch.equal(outcome.deltas[name], deltas[name]) for name in deltas)
    assert [step for step, _ in steps] == sorted({step for step, _ in steps})
    assert {of for _, of in steps} == {12}


def test_shards_see_their_own_films_alone_and_as_many_samples_as_plain_training() -> None:
    wishes, asked = recipe(**WITH_CONTROL), rule()
    ensemble = Ensemble(films(), wishes, asked, SkipCounts(films()))
    first, second = ensemble.tasks()
    assert sorted([*first.rows, *second.rows]) == list(range(FILMS))
    assert not set(films().patients[first.rows]) & set(films().patients[second.rows])
    steps: list[tuple[int, int]] = []
    _, outcome = trained(wishes, asked, steps)
    assert int(outcome.skips.visits_N.sum()) == 12 * 4
    assert outcome.skips.visits_N[torch.from_numpy(first.rows)].sum() == 6 * 4
    assert outcome.moves_M4.shape == (0, 4)
    assert max(step for step, _ in steps) <= 12


@pytest.mark.parametrize(
    ("order", "break_at"),
    [pytest.param(reversed, None, id="shards in reverse"), pytest.param(iter, 5, id="broken off in the middle of a round")],
)
def test_order_of_shards_and_breaks_change_nothing(order: Callable[[list[Any]], Any], break_at: int | None) -> None:
    wishes, asked = recipe(steps=24, **WITH_CONTROL), rule(rounds=4, redistribute=0.25)
    model, outcome = trained(wishes, asked)
    rounds = Rounds(wishes, asked)
    assert same(rounds.train(order, break_at=break_at), model)
    assert rounds.ensemble.skips.totals() == outcome.skips.totals()
    assert np.array_equal(rounds.ensemble.moves_M4, outcome.moves_M4)


def test_copy_learns_without_the_model_and_shares_its_autoencoder() -> None:
    model = tiny_model()
    copy = copied(model)
    with torch.no_grad():
        for part in (copy.unet, copy.text_encoder):
            next(iter(part.parameters())).add_(1)
    assert same(model, tiny_model())
    assert copy.vae is model.vae
