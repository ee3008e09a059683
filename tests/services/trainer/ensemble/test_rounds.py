"""The rounds of an ensemble: who learns what and when, what is averaged, who moves, and that a round that is kept goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.batch_filters import AntiGradientFilter
from services.trainer.caption_rules import MultipleCaptions, RandomCaption
from services.trainer.caption_transforms import open_caption_transform
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.in_process import copied
from services.trainer.ensemble.rounds import Ensemble, begin_shard, shard_recipe
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.parameters.kinds import LowRankParameters, SingularValueParameters
from services.trainer.parameters.selection import PartOfDenoiser
from services.trainer.skip_counts import SkipCounts
from services.trainer.training_set import TrainingSet
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from tests.denoisers import IMAGE_SIZE, PROMPTS, tiny_model

FILMS = 16


def films() -> TrainingSet:
    """Sixteen soft pictures of eight patients."""
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(0, 256, (FILMS, 4, 4)), np.ones((IMAGE_SIZE // 4, IMAGE_SIZE // 4))).astype(np.uint8)
    prompts = [f"{PROMPTS[number % 4]} Film {number}." for number in range(FILMS)]
    numbers = np.arange(FILMS)
    return TrainingSet(images, prompts, np.ones(FILMS, dtype=np.int64), 100 + numbers, numbers // 2, [PROMPTS[n // 2 % 4] for n in numbers])


def recipe(**changed: Any) -> Recipe:
    return replace(Recipe(steps=12, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=3), **changed)


def rule(**told: Any) -> EnsembleRule:
    return EnsembleRule.model_validate({"kind": "iet", "shards": 2, "rounds": 3, **told})


def control(model: Model) -> AntiGradientFilter:
    """Anti-gradient control that leaves out much of so short a training."""
    return AntiGradientFilter(len(model.alphas_cumprod), model.device, scale=1.0, decay=0.0)


def few_levels(count: int, _timesteps: int, generator: torch.Generator) -> Tensor:
    """Three noise levels, so that control finds means to compare with."""
    return torch.randint(0, 3, (count,), generator=generator) * 300


SEVERAL_CAPTIONS = open_caption_transform(MultipleCaptions(kind="multiple", count=4))
SINGULAR_VALUES: dict[str, Any] = {"parameters": PartOfDenoiser(SingularValueParameters(kind="svdiff")), "text_encoder": "frozen"}
ADAPTERS: dict[str, Any] = {"parameters": PartOfDenoiser(LowRankParameters(kind="lora", rank=2)), "text_encoder": "frozen"}
RANDOM_CAPTIONS = open_caption_transform(RandomCaption(kind="random_caption"))
WITH_CONTROL: dict[str, Any] = {"batch_filter": control, "timesteps": few_levels}


def weights(model: Model) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for part in ("unet", "text_encoder") for name, tensor in getattr(model, part).state_dict().items()}


def same(left: Model, right: Model) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_steps_are_dealt_to_rounds_evenly_and_none_is_empty() -> None:
    ensemble = Ensemble(films(), recipe(steps=17), rule(rounds=3), SkipCounts(films()))
    spans = []
    while not ensemble.is_over:
        spans.append([(task.begins, task.ends) for task in ensemble.tasks()])
        ensemble.round += 1
    assert spans == [[(0, 3)] * 2, [(3, 5)] * 2, [(5, 8)] * 2]
    assert ensemble.step == 16


def test_shards_have_random_numbers_of_their_own_and_words_of_all_prompts() -> None:
    opened: list[Sequence[str]] = []

    def opens(_model: Model, prompts: Sequence[str]) -> Any:
        opened.append(prompts)

    wishes = recipe(captions=(opens,))
    mine = [shard_recipe(wishes, films(), rule(shards=4), shard) for shard in range(4)]
    assert mine[0].seed == wishes.seed
    assert len({one.seed for one in mine}) == 4
    assert {one.steps for one in mine} == {3}
    mine[2].captions[0](tiny_model(), ["a prompt of the shard"])
    assert opened == [films().prompts]


class Rounds:
    """An ensemble run by hand: shards in any order, everything between two rounds written down and read again."""

    def __init__(self, wishes: Recipe, asked: EnsembleRule) -> None:
        self.wishes, self.asked, self.model = wishes, asked, tiny_model()
        torch.manual_seed(5)
        self.ensemble = self._fresh()
        self.states: dict[int, State] = {}

    def _fresh(self) -> Ensemble:
        return Ensemble(films(), self.wishes, self.asked, SkipCounts(films()))

    def train(self, order: Callable[[list[Any]], Any], *, break_at: int | None = None) -> Model:
        """All rounds; with `break_at`, each shard's run is dropped at this step of its own and goes on from its state."""
        while not self.ensemble.is_over:
            for task in order(self.ensemble.tasks()):
                begin = partial(begin_shard, films=films(), recipe=self.wishes, rule=self.asked, task=task, own=self.states.get(task.shard))
                run = begin(copied(self.model))
                if break_at is not None and task.begins < break_at < task.ends:
                    run.advance_until(break_at)
                    kept = run.state().copied()
                    torch.manual_seed(99)
                    run = begin(copied(self.model))
                    run.restore(kept)
                run.advance_until(task.ends)
                self.states[task.shard] = run.state().copied()
            self.ensemble.close_round(self.states[shard] for shard in range(self.asked.shards))
            kept, self.ensemble = self.ensemble.state().copied(), self._fresh()
            self.ensemble.restore(kept)
        self.ensemble.finish(self.model, self.wishes)
        return self.model


def test_patients_whose_samples_are_left_out_change_places_after_the_third_round() -> None:
    """Of each shard's four patients one goes; a filter that leaves out one patient's films sends that one."""
    wanted = films()

    class LeaveOut:
        """Everything is kept; skips are written by the test."""

        def __call__(self, batch: Any) -> Tensor:
            return torch.ones(len(batch.losses_B), dtype=torch.bool)

    wishes, asked = recipe(steps=32, batch_filter=lambda _model: LeaveOut()), rule(rounds=4, redistribute=0.25)
    ensemble = Ensemble(wanted, wishes, asked, SkipCounts(wanted))
    dealt = ensemble.shards_N.copy()
    model = tiny_model()
    states: dict[int, State] = {}
    skipped = {shard: int(wanted.patients[np.flatnonzero(dealt == shard)[0]]) for shard in (0, 1)}
    for _ in range(3):
        assert np.array_equal(ensemble.shards_N, dealt)
        for task in ensemble.tasks():
            run = begin_shard(copied(model), wanted, wishes, asked, task, states.get(task.shard))
            run.advance_until(task.ends)
            state = run.state().copied()
            counts = state.part("loss").part("skips").tensors
            assert int(counts["visits"].sum()) == 4 * (task.ends - task.begins)  # of this round alone
            counts["skips"][:] = 0
            counts["skips"][torch.from_numpy(wanted.patients[task.rows] == skipped[task.shard])] = counts["visits"].max()
            states[task.shard] = state
        ensemble.close_round(states[shard] for shard in (0, 1))
    moved = {int(patient) for patient in wanted.patients[ensemble.shards_N != dealt]}
    assert set(skipped.values()) <= moved
    assert np.bincount(ensemble.shards_N).tolist() == np.bincount(dealt).tolist()
    rows = np.flatnonzero(ensemble.shards_N != dealt)
    assert ensemble.moves_M4.tolist() == [[3, 100 + row, dealt[row], ensemble.shards_N[row]] for row in rows]
    before: dict[int, NDArray[np.int64]] = {task.shard: task.rows_before for task in ensemble.tasks()}
    assert all(np.array_equal(before[shard], np.flatnonzero(dealt == shard)) for shard in (0, 1))
    for task in ensemble.tasks():
        run = begin_shard(copied(model), wanted, wishes, asked, task, states[task.shard])
        kept = run.state().part("loss")
        assert kept.part("skips").tensors["visits"].shape == (len(task.rows),)
        assert run.step == task.begins


def test_filter_optimiser_and_rates_go_on_over_rounds() -> None:
    wishes, asked = recipe(steps=12, **WITH_CONTROL), rule()
    rounds = Rounds(wishes, asked)
    (task, other) = rounds.ensemble.tasks()
    for one in (task, other):
        run = begin_shard(copied(rounds.model), films(), wishes, asked, one, None)
        run.advance_until(one.ends)
        rounds.states[one.shard] = run.state().copied()
    rounds.ensemble.close_round(rounds.states[shard] for shard in (0, 1))
    task = rounds.ensemble.tasks()[0]
    own = rounds.states[0]
    again = begin_shard(copied(rounds.model), films(), wishes, asked, task, own).state()
    for part in ("optimiser", "rates", "streams"):
        kept, now = own.part(part), again.part(part)
        assert kept.facts == now.facts
        assert all(torch.equal(kept.tensors[name], now.tensors[name]) for name in kept.tensors)
    bank, before = (state.part("loss").part("filter").tensors["bank"] for state in (again, own))
    assert torch.equal(bank, before)
    assert bank.count_nonzero() == 3
    assert again.facts["step"] == own.facts["step"] == 2
    mean = (rounds.states[0].tensors["average/0"] + rounds.states[1].tensors["average/0"]) / 2
    torch.testing.assert_close(again.tensors["average/0"], mean)  # eight films each
    assert not torch.equal(again.tensors["modules/0.conv_in.weight"], own.tensors["modules/0.conv_in.weight"])


def one_round(wishes: Recipe) -> tuple[Rounds, list[State]]:
    """An ensemble of two shards after its first round, and the shards' states."""
    rounds = Rounds(wishes, rule())
    for task in rounds.ensemble.tasks():
        run = begin_shard(copied(rounds.model), films(), wishes, rounds.asked, task, None)
        run.advance_until(task.ends)
        rounds.states[task.shard] = run.state().copied()
    states = [rounds.states[shard] for shard in (0, 1)]
    rounds.ensemble.close_round(states)
    return rounds, states


def test_singular_values_are_averaged_as_they_are() -> None:
    rounds, (first, second) = one_round(recipe(**SINGULAR_VALUES))
    assert rounds.ensemble.averaged is not None
    for name, tensor in rounds.ensemble.averaged.tensors.items():
        torch.testing.assert_close(tensor, (first.tensors[name] + second.tensors[name]) / 2)


def test_adapters_begin_alike_and_are_averaged_by_what_they_do() -> None:
    """The mean of both updates BA, as near as rank two comes; the mean of A times the mean of B is another."""
    wishes = recipe(**ADAPTERS, steps=48)
    begun = Rounds(wishes, rule())
    a, b = (begin_shard(copied(begun.model), films(), wishes, begun.asked, task, None).state().copied() for task in begun.ensemble.tasks())
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors if name.startswith("modules/"))
    rounds, (first, second) = one_round(wishes)
    averaged = rounds.ensemble.averaged
    assert averaged is not None

    def update(state: State) -> Tensor:
        down, up = (state.tensors[f"modules/0.chosen.{number}"].double() for number in (0, 1))
        return up @ down

    mean = (update(first) + update(second)) / 2
    left, values, right = torch.linalg.svd(mean)
    nearest = left[:, :2] * values[:2] @ right[:2]
    torch.testing.assert_close(update(averaged), nearest, rtol=1e-4, atol=1e-6 * float(values[0]))
    assert (update(averaged) - mean).norm() < 0.5 * mean.norm()


def test_ensemble_that_learnt_nothing_is_no_model() -> None:
    ensemble = Ensemble(films(), recipe(), rule(), SkipCounts(films()))
    with pytest.raises(ValueError, match="learnt nothing"):
        ensemble.finish(tiny_model(), recipe())
