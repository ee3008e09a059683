"""One step's loss: what is shown, what is dropped, what counts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.batch_filters import NEAR, AntiGradientFilter, JudgedBatch, MagnitudeFilter, open_batch_filter
from services.trainer.caption_transforms import InsertedWords, NowAndThen, OneOfSeveral, meaningless_words
from services.trainer.denoising_loss import (
    DenoisingLoss,
    Recipe,
    all_parameters,
    cache_latents,
    denoiser_parameters,
    min_snr_weights,
)
from services.trainer.filter_rules import AntiGradientRule, MagnitudeRule
from services.trainer.timesteps import u_shaped_timesteps, uniform_timesteps
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.checkpoints import State
from shared.diffusion.optimisation import Optimisation, optimise
from tests.denoisers import PROMPTS, stable_diffusion_model, tiny_model
from tests.training_films import films

if TYPE_CHECKING:
    from shared.diffusion.model import Model

RECIPE = Recipe(steps=4, batch_size=4, learning_rate=1e-3, prompt_dropout=0.1, seed=0)


def test_cached_latents_do_not_depend_on_the_batch() -> None:
    model = tiny_model()
    torch.testing.assert_close(cache_latents(model, films(), batch_size=1), cache_latents(model, films()), rtol=0, atol=1e-4)


def test_loss_is_that_of_a_model_that_predicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "predict_noise", lambda x, _t, _e: torch.zeros_like(x))
    losses = [float(DenoisingLoss(model, films(), replace(RECIPE, seed=seed, batch_size=32))(0) or 0) for seed in range(3)]
    assert np.mean(losses) == pytest.approx(1.0, abs=0.05)  # E‖ε‖² a value


def test_perfect_prediction_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that knows z_0 answers ε exactly: z_t is made from the schedule and the cached latents as it should be."""
    model = tiny_model()
    one = TrainingSet(films().images_NHW[:1], PROMPTS[:1], np.array([1]))
    z_0 = cache_latents(model, one)

    def knowing(z_t: Tensor, t: Tensor, _embeddings: Tensor) -> Tensor:
        alpha_bar = model.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (z_t - alpha_bar.sqrt() * z_0) / (1 - alpha_bar).sqrt()

    monkeypatch.setattr(model, "predict_noise", knowing)
    assert float(DenoisingLoss(model, one, RECIPE)(0) or 1) < 1e-6


# ---------------------------------------------------------------- prompts


def told(recipe: Recipe, batches: int = 40) -> tuple[Tensor, Tensor]:
    """Token ids of many visits of all four films, in the films' order, and those of the empty prompt."""
    model = tiny_model()
    loss = DenoisingLoss(model, films((1, 1, 1, 1)), recipe)
    seen = []
    for _ in range(batches):
        visit = loss.draw()
        seen.append(loss.embeddings.tokens(visit.rows_B, visit.dropped_B, visit.prompts)[np.argsort(visit.rows_B)])
    return torch.stack(seen), model.tokenize([""])[0]


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_prompts_are_dropped_as_often_as_asked(dropout: float) -> None:
    tokens, empty = told(replace(RECIPE, prompt_dropout=dropout), batches=100)
    share = float((tokens == empty).all(-1).float().mean())
    assert share == pytest.approx(dropout, abs=0.0 if dropout in {0.0, 1.0} else 0.08)


def test_kept_prompts_are_the_films_own() -> None:
    tokens, _ = told(replace(RECIPE, prompt_dropout=0.0), batches=1)
    assert torch.equal(tokens[0], tiny_model().tokenize(PROMPTS))


def test_caption_transforms_are_applied_in_order_at_each_visit() -> None:
    seen: list[str] = []

    def shout(prompt: str, _generator: np.random.Generator) -> str:
        return prompt + " acute"

    def record(prompt: str, _generator: np.random.Generator) -> str:
        seen.append(prompt)
        return prompt

    tokens, _ = told(
        replace(RECIPE, prompt_dropout=0.0, captions=(lambda _model, _prompts: shout, lambda _model, _prompts: record)), batches=2
    )
    assert [sorted(seen[:4]), sorted(seen[4:])] == [sorted(prompt + " acute" for prompt in PROMPTS)] * 2
    assert torch.equal(tokens[1], tiny_model().tokenize([prompt + " acute" for prompt in PROMPTS]))


def test_embedding_noise_is_on_prompts_and_not_on_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    told: list[Tensor] = []
    monkeypatch.setattr(model, "predict_noise", lambda x, _t, embeddings: told.append(embeddings.detach()) or torch.zeros_like(x))
    recipe = replace(RECIPE, prompt_dropout=0.5, seed=1)
    visits = []
    for scale in (0.0, 0.1):
        visits.append(DenoisingLoss(model, films(), replace(recipe, embedding_noise=scale)).draw())
        DenoisingLoss(model, films(), replace(recipe, embedding_noise=scale))(0)
    plain, noisy = visits
    assert plain.embedding_noise_BLE is None
    assert torch.equal(plain.epsilon_BCHW, noisy.epsilon_BCHW)
    assert torch.equal(plain.dropped_B, noisy.dropped_B)
    difference = told[1] - told[0]
    assert 0 < int(plain.dropped_B.sum()) < 4
    assert float(difference[plain.dropped_B].abs().max()) == 0.0
    assert float(difference[~plain.dropped_B].std()) == pytest.approx(0.1, rel=0.05)
    share = noisy[1:3].embedding_noise_BLE
    assert share is not None
    assert noisy.embedding_noise_BLE is not None
    assert torch.equal(share, noisy.embedding_noise_BLE[1:3])


# ---------------------------------------------------------------- filters and timesteps


def test_filter_sees_losses_and_timesteps_and_masks_the_mean() -> None:
    seen: dict[str, Tensor] = {}

    def lowest_two(batch: JudgedBatch) -> Tensor:
        seen.update(losses=batch.losses_B, timesteps=batch.timesteps_B)
        return batch.losses_B <= batch.losses_B.sort().values[1]

    loss = DenoisingLoss(tiny_model(), films(), replace(RECIPE, batch_filter=lambda _model: lowest_two))(0)
    assert loss is not None
    assert not seen["losses"].requires_grad
    assert seen["losses"].shape == seen["timesteps"].shape == (4,)
    assert float(loss.detach()) == pytest.approx(float(seen["losses"].sort().values[:2].mean()), rel=1e-6)


@pytest.mark.parametrize("objective", ["epsilon", "native"])
def test_filter_can_ask_how_far_the_prompt_moves_the_noise_prediction(objective: Literal["epsilon", "native"], tmp_path: Path) -> None:
    model = stable_diffusion_model("v_prediction", tmp_path)
    told: list[Tensor] = []

    def ask(batch: JudgedBatch) -> Tensor:
        told.append(batch.magnitudes_B())
        return told[-1] >= 0

    recipe = replace(RECIPE, objective=objective, prompt_dropout=0.5, batch_filter=lambda _model: ask)
    DenoisingLoss(model, films(), recipe)(0)
    visit = DenoisingLoss(model, films(), recipe).draw()
    alpha_bar = model.alphas_cumprod[visit.timesteps_B].view(-1, 1, 1, 1)
    z_t = alpha_bar.sqrt() * cache_latents(model, films())[visit.rows_B] + (1 - alpha_bar).sqrt() * visit.epsilon_BCHW
    prompts = ["" if dropped else PROMPTS[row] for row, dropped in zip(visit.rows_B, visit.dropped_B, strict=True)]
    with torch.no_grad():
        with_and_without = (
            model.predict_noise(z_t, visit.timesteps_B, model.encode(texts).embeddings_BLE) for texts in (prompts, [""] * len(prompts))
        )
        expected = torch.sub(*with_and_without).square().sum((1, 2, 3)).sqrt()
    assert float(expected.max()) > 1e-3
    torch.testing.assert_close(told[0], expected, rtol=1e-3, atol=1e-5)


def test_dropped_samples_have_no_gradient() -> None:
    """A threshold that no sample with a prompt meets leaves the loss, and its gradient, of those without one."""
    recipe = replace(RECIPE, prompt_dropout=0.5, seed=1)
    model = tiny_model()
    unconditional = DenoisingLoss(model, films(), recipe).draw().dropped_B
    assert 0 < int(unconditional.sum()) < 4
    gradients = []
    for batch_filter in (MagnitudeFilter(threshold=1e-9), lambda batch: batch.dropped_B):
        model.unet.zero_grad()
        loss = DenoisingLoss(model, films(), replace(recipe, batch_filter=lambda _model, batch_filter=batch_filter: batch_filter))
        value = loss(0)
        assert value is not None
        value.backward()
        gradients.append([p.grad for p in model.unet.parameters()])
        assert loss.skips.totals()["skipped_samples"] == int((~unconditional).sum())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


class Nearness(AntiGradientFilter):
    """Keeps everything, and calls the films of these turns' batches near; notes what the denoiser was trained on."""

    def __init__(self, *near: list[bool]) -> None:
        super().__init__(1000, torch.device("cpu"), margin=0.1)
        self.turns = iter(near)

    def __call__(self, batch: JudgedBatch) -> Tensor:
        return torch.where(torch.tensor(next(self.turns)), NEAR, torch.ones(len(batch.losses_B), dtype=torch.int64))


def latents_of(
    model: Model, recipe: Recipe, batches: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], DenoisingLoss, list[int]]:
    """z_0 of the films in order, batch by batch, each film once in each; and how many films were encoded each time."""
    loss, latents, encoded = DenoisingLoss(model, films((1, 1, 1, 1)), recipe), [], []
    of, to = loss._latents, model.to_latents

    def order(rows_B: np.ndarray, changed: np.ndarray) -> Tensor:
        z_0 = of(rows_B, changed)
        latents.append(z_0[np.argsort(rows_B)])
        return z_0

    monkeypatch.setattr(loss, "_latents", order)
    monkeypatch.setattr(model, "to_latents", lambda images: encoded.append(len(images)) or to(images))
    for _ in range(batches):
        loss(0)
    return latents, loss, encoded


@pytest.mark.parametrize("cached", [True, False])
def test_marked_films_are_changed_at_their_next_visit_alone(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, two = [False] * 4, [True, False, True, False]
    recipe = replace(RECIPE, cache_latents=cached, batch_filter=lambda _model: Nearness(nobody, two, nobody, nobody))
    plain = cache_latents(tiny_model(), films((1, 1, 1, 1)))
    seen, loss, encoded = latents_of(tiny_model(), recipe, 4, monkeypatch)
    deck = films((1, 1, 1, 1)).visits(4, np.random.default_rng([recipe.seed, 2]))
    marked = sorted([next(deck) for _ in range(2)][1][two].tolist())
    for turn, z_0 in enumerate(seen):
        changed = [film for film in range(4) if float((z_0[film] - plain[film]).abs().max()) > 1e-3]
        assert changed == (marked if turn == 2 else []), turn
    assert encoded == ([2] if cached else [4, 4, 4, 4])  # one film a marked visit, where latents are kept
    assert loss.skips.augmented_N.tolist() == [int(film in marked) for film in range(4)]
    again, _, _ = latents_of(tiny_model(), recipe, 4, monkeypatch)
    assert all(torch.equal(one, other) for one, other in zip(again, seen, strict=True))


def test_film_that_comes_twice_is_changed_once() -> None:
    model = tiny_model()
    one = TrainingSet(films().images_NHW[:1], PROMPTS[:1], np.array([4]))
    loss = DenoisingLoss(model, one, replace(RECIPE, batch_filter=lambda _model: Nearness([True] * 4, [False] * 4, [False] * 4)))
    for augmented in (0, 1, 1):
        loss(0)
        assert loss.skips.totals()["augmented_samples"] == augmented


def test_without_a_margin_nothing_is_marked_or_drawn() -> None:
    for rule in (AntiGradientRule(kind="anti_gradient"), MagnitudeRule(kind="magnitude")):
        loss = DenoisingLoss(tiny_model(), films(), replace(RECIPE, batch_filter=open_batch_filter(rule)))
        assert loss.marked is None
        assert not any(name.startswith("marks") for name in loss.state().tensors)


def test_margin_that_nothing_meets_changes_no_weight() -> None:
    """Marks cost no random number of any other stream: with a margin so small that none is near, weights are those of AGC alone."""
    trained = []
    for margin in (None, 1e-9):
        model, rule = tiny_model(), AntiGradientRule(kind="anti_gradient", scale=1.0, decay=0.1, augment_margin=margin)
        recipe = replace(RECIPE, timesteps=at(500), batch_filter=open_batch_filter(rule))
        loss = DenoisingLoss(model, films(), recipe)
        optimise(all_parameters(model), loss, recipe.optimisation)
        assert loss.skips.totals()["augmented_samples"] == 0
        assert loss.skips.totals()["skipped_samples"] > 0
        trained.append(torch.cat([p.detach().flatten() for p in model.unet.parameters()]))
    assert torch.equal(*trained)


def test_timestep_density_decides_the_noise_level() -> None:
    seen: list[Tensor] = []

    def late(count: int, total: int, generator: torch.Generator) -> Tensor:
        return torch.randint(total - 10, total, (count,), generator=generator)

    def watch(batch: JudgedBatch) -> Tensor:
        seen.append(batch.timesteps_B)
        return torch.ones_like(batch.losses_B, dtype=torch.bool)

    DenoisingLoss(tiny_model(), films(), replace(RECIPE, timesteps=late, batch_filter=lambda _model: watch))(0)
    assert 990 <= int(seen[0].min()) <= int(seen[0].max()) < 1000


# ---------------------------------------------------------------- weights, objectives, noise


def test_min_snr_weights_are_the_papers() -> None:
    # SNR of Stable Diffusion's schedule at t = 1, 200, 500 and 981 by hand: 587.235, 3.06020, 0.381789, 0.00581360.
    alpha_bar = torch.tensor([0.99830, 0.75369, 0.27630, 0.00578], dtype=torch.float64)
    snr = alpha_bar / (1 - alpha_bar)
    of_noise, of_velocity = (min_snr_weights(alpha_bar, 5.0, of_velocity=velocity) for velocity in (False, True))
    assert of_noise.tolist() == pytest.approx([5 / 587.235, 1.0, 1.0, 1.0], rel=1e-4)
    assert of_velocity.tolist() == pytest.approx([5 / 588.235, 3.06020 / 4.06020, 0.381789 / 1.381789, 0.0058136 / 1.0058136], rel=1e-4)
    torch.testing.assert_close(of_noise * snr, snr.clamp(max=5))
    torch.testing.assert_close(of_velocity * (snr + 1), snr.clamp(max=5))


def test_min_snr_weights_are_finite_at_both_ends() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert min_snr_weights(ends, 5.0, of_velocity=False).tolist() == [1.0, 0.0]
    assert min_snr_weights(ends, 5.0, of_velocity=True)[0] == 0.0


def at(timestep: int) -> Callable[[int, int, torch.Generator], Tensor]:
    """A density of one timestep."""

    def density(count: int, _total: int, _generator: torch.Generator) -> Tensor:
        return torch.full((count,), timestep)

    return density


def loss_of(model: Model, recipe: Recipe) -> float:
    """The first loss."""
    value = DenoisingLoss(model, films(), recipe)(0)
    assert value is not None
    return float(value.detach())


@pytest.mark.parametrize("timestep", [1, 500, 981])
def test_min_snr_scales_the_loss_of_a_timestep(timestep: int) -> None:
    model, recipe = tiny_model(), replace(RECIPE, timesteps=at(timestep))
    snr = float(model.alphas_cumprod[timestep] / (1 - model.alphas_cumprod[timestep]))
    weighted = loss_of(model, replace(recipe, min_snr_gamma=5.0))
    assert weighted == pytest.approx(loss_of(model, recipe) * min(snr, 5.0) / snr, rel=1e-4)


@pytest.mark.parametrize("timestep", [100, 900])
def test_error_in_v_is_that_in_noise_over_alpha_squared(tmp_path: Path, timestep: int) -> None:
    model = stable_diffusion_model("v_prediction", tmp_path)
    recipe = replace(RECIPE, timesteps=at(timestep))
    ratio = loss_of(model, replace(recipe, objective="native")) / loss_of(model, recipe)
    assert ratio == pytest.approx(1 / float(model.alphas_cumprod[timestep]), rel=1e-3)


def test_min_snr_is_the_same_loss_whatever_the_error_is_measured_in(tmp_path: Path) -> None:
    model = stable_diffusion_model("v_prediction", tmp_path)
    weighted = replace(RECIPE, min_snr_gamma=5.0, timesteps=at(700))
    assert loss_of(model, replace(weighted, objective="native")) == pytest.approx(loss_of(model, weighted), rel=1e-4)


def test_native_objective_of_a_model_that_predicts_noise_is_noise() -> None:
    assert loss_of(tiny_model(), replace(RECIPE, objective="native")) == loss_of(tiny_model(), RECIPE)


def test_noise_offset_is_common_to_a_channel_and_leaves_the_other_numbers() -> None:
    plain, offset = (DenoisingLoss(tiny_model(), films(), replace(RECIPE, noise_offset=size)).draw() for size in (0.0, 0.1))
    difference = offset.epsilon_BCHW - plain.epsilon_BCHW
    assert float(difference.var((2, 3)).max()) < 1e-10
    assert 0.03 < float(difference.std()) < 0.3
    assert torch.equal(offset.timesteps_B, plain.timesteps_B)
    assert torch.equal(offset.dropped_B, plain.dropped_B)
    assert np.array_equal(offset.rows_B, plain.rows_B)


# ---------------------------------------------------------------- memory: caches, precision, shares


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_caches_change_no_loss(precision: Literal["fp32", "bf16"]) -> None:
    recipe = replace(RECIPE, text_encoder="frozen", parameters=denoiser_parameters, precision=precision, prompt_dropout=0.5)
    losses = {
        (latents, embeddings): loss_of(tiny_model(), replace(recipe, cache_latents=latents, cache_embeddings=embeddings))
        for latents in (True, False)
        for embeddings in (True, False)
    }
    assert losses.pop((False, False)) == pytest.approx(losses[True, True], rel=1e-5)
    assert list(losses.values()) == pytest.approx([losses[True, True]] * 3, rel=1e-5)


def test_step_in_bf16_is_close_to_one_in_fp32() -> None:
    gradients = {}
    for precision in ("fp32", "bf16"):
        model = tiny_model()
        value = DenoisingLoss(model, films(), replace(RECIPE, precision=precision))(0)
        assert value is not None
        assert value.dtype == torch.float32
        value.backward()
        parameters = [*model.unet.parameters(), *model.text_encoder.parameters()]
        gradients[precision] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]), float(value.detach())
        assert all(p.dtype == torch.float32 for p in parameters)
    (full, loss), (half, near) = gradients["fp32"], gradients["bf16"]
    assert near == pytest.approx(loss, rel=0.01)
    assert near != loss
    assert float(torch.cosine_similarity(full, half, dim=0)) > 0.99


def test_shares_of_a_batch_make_up_its_loss() -> None:
    whole = loss_of(tiny_model(), RECIPE)
    shares = []
    for rank in range(2):
        value = DenoisingLoss(tiny_model(), films(), RECIPE, share=slice(rank, None, 2))(0)
        assert value is not None
        shares.append(float(value.detach()))
    assert np.mean(shares) == pytest.approx(whole, rel=1e-5)


def test_accumulated_gradients_are_those_of_the_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four passes of one film each, and one of all four: the same visits, once one by one."""
    drawn = DenoisingLoss(tiny_model(), films(), RECIPE).draw()
    trained = {}
    for passes, share in ((1, slice(None)), (4, None)):
        model = tiny_model()
        loss = DenoisingLoss(model, films(), RECIPE)
        turns = itertools.cycle(range(4))
        monkeypatch.setattr(loss, "draw", lambda share=share, turns=turns: drawn[share or slice(turn := next(turns), turn + 1)])
        optimise(all_parameters(model), loss, replace(RECIPE, accumulation=passes, steps=3).optimisation)
        trained[passes] = torch.cat([p.detach().flatten() for p in model.unet.parameters()])
    torch.testing.assert_close(trained[4], trained[1], rtol=0, atol=2e-5)
    assert not torch.equal(trained[4], torch.cat([p.detach().flatten() for p in tiny_model().unet.parameters()]))


@pytest.mark.parametrize("text_encoder", ["train", "frozen"])
def test_checkpointed_activations_give_the_same_gradients(text_encoder: Literal["train", "frozen"]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model()
        parameters = all_parameters if text_encoder == "train" else denoiser_parameters
        recipe = replace(RECIPE, gradient_checkpointing=checkpointing, text_encoder=text_encoder, parameters=parameters)
        modules = recipe.modules(model)
        for module in modules:
            module.train()
        value = DenoisingLoss(model, films(), recipe)(0)
        assert value is not None
        value.backward()
        gradients.append([p.grad for module in modules for p in module.parameters()])
        assert model.unet.is_gradient_checkpointing == checkpointing
        assert any(p.grad is not None for p in model.text_encoder.parameters()) == (text_encoder == "train")
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_restored_loss_draws_on_where_the_other_stopped() -> None:
    def shuffle(prompt: str, generator: np.random.Generator) -> str:
        return " ".join(generator.permutation(prompt.split()))

    recipe = replace(RECIPE, batch_size=3, captions=(lambda _model, _prompts: shuffle,), embedding_noise=0.1, noise_offset=0.1)
    first, second = (DenoisingLoss(tiny_model(), films(), replace(recipe, seed=seed)) for seed in (0, 7))
    for _ in range(3):
        first.draw()
    kept = first.state().copied()
    expected = [first.draw() for _ in range(4)]
    second.restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
    for one in expected:
        other = second.draw()
        assert np.array_equal(one.rows_B, other.rows_B)
        assert one.prompts == other.prompts
        assert torch.equal(one.epsilon_BCHW, other.epsilon_BCHW)
        assert torch.equal(one.timesteps_B, other.timesteps_B)
        assert torch.equal(one.dropped_B, other.dropped_B)
        assert one.embedding_noise_BLE is not None
        assert other.embedding_noise_BLE is not None
        assert torch.equal(one.embedding_noise_BLE, other.embedding_noise_BLE)


# ---------------------------------------------------------------- what a job is told


def test_recipe_of_a_plain_spec_is_the_recipe_of_before() -> None:
    spec = TrainingSpec(name="a", dataset="ds_1", steps=4, batch_size=4)
    assert Recipe.of(spec) == RECIPE
    assert RECIPE.timesteps is uniform_timesteps
    assert RECIPE.optimisation == Optimisation(4, 1e-3, ema_decay=0.995)


def test_recipe_takes_every_wish() -> None:
    wishes: dict[str, Any] = {
        "text_encoder": "frozen",
        "schedule": "cosine",
        "warm_up": 0.2,
        "weight_decay": 0.1,
        "ema_decay": None,
        "objective": "native",
        "min_snr_gamma": 5.0,
        "noise_offset": 0.05,
        "precision": "bf16",
        "gradient_checkpointing": True,
        "cache_latents": False,
        "cache_embeddings": False,
    }
    recipe = Recipe.of(TrainingSpec(name="a", dataset="ds_1", gradient_accumulation=8, **wishes))
    assert {name: getattr(recipe, name) for name in wishes} == wishes
    assert recipe.parameters is denoiser_parameters
    assert recipe.optimisation == Optimisation(1500, 1e-3, weight_decay=0.1, schedule="cosine", warm_up=0.2, accumulation=8)


def test_recipe_takes_captions_and_timesteps() -> None:
    kinds = ["scrub", "multiple", "random_tokens", "embedding_noise", "word_repetition"]
    captions = [{"kind": kind} | ({"scale": 0.2} if kind == "embedding_noise" else {}) for kind in kinds]
    recipe = Recipe.of(TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", "captions": captions, "timesteps": "u_shaped"}))
    assert recipe.timesteps is u_shaped_timesteps
    assert recipe.embedding_noise == 0.2
    several, *others = [opens(tiny_model(), PROMPTS) for opens in recipe.captions]
    assert isinstance(several, OneOfSeveral)
    words = meaningless_words(tiny_model(), PROMPTS)
    assert others == [NowAndThen(0.1, InsertedWords(2, words)), NowAndThen(0.1, InsertedWords(2))]
