"""Evaluations: everything is made once, at a known cost, and a training that is looked at goes on as if it had not been."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.training_set import TrainingSet
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.optimisation import Run
from shared.errors import ConflictError, JobCancelledError
from shared.memorization.galleries import FilmSet
from shared.memorization.rewards import evaluation as module
from shared.memorization.rewards.built_in import REWARDS
from shared.memorization.rewards.evaluation import Evaluation, measure
from tests.denoisers import IMAGE_SIZE, PROMPTS, counted_forwards
from tests.denoisers import tiny_model as untrained_model
from tests.shared.memorization.rewards.conftest import EFFORT

if TYPE_CHECKING:
    from shared.diffusion.model import Model
    from shared.memorization.rewards.reference import Reference

CANARIES, CONTROLS = 2, 7
DRAWN = CANARIES * EFFORT.images_per_canary + CONTROLS


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each expensive thing was made."""
    times: Counter[str] = Counter()

    def counted(name: str) -> None:
        inner: Any = getattr(module, name)

        def outer(*arguments: Any, **words: Any) -> Any:
            times[name] += 1
            return inner(*arguments, **words)

        monkeypatch.setattr(module, name, outer)

    for name in ("draw_in_batches", "look_at_noised", "match", "site_features"):
        counted(name)
    return times


def test_all_rewards_together_make_everything_once(tiny_model: Model, reference: Reference, made: Counter[str]) -> None:
    with counted_forwards(tiny_model) as seen:
        figures = measure(tiny_model, reference, EFFORT, list(REWARDS.values()))
    assert set(figures) == set(REWARDS)
    assert all(figure["low"] <= figure["high"] and np.isfinite(figure["value"]) for figure in figures.values())
    # Canaries' images and controls', films of both with their noises, one search among training films, codes of both.
    assert made == {"draw_in_batches": 2, "look_at_noised": 2, "match": 1, "site_features": 2}
    drawing, looking = DRAWN * EFFORT.sampling_steps, (CANARIES + CONTROLS) * EFFORT.noises
    assert (seen.conditional, seen.unconditional) == (drawing + looking, drawing + looking)


@pytest.mark.parametrize(
    ("names", "passes"),
    [
        (["copy_rate"], 2 * CANARIES * EFFORT.images_per_canary * EFFORT.sampling_steps),
        (["copy_rate", "amd", "extraction"], 2 * CANARIES * EFFORT.images_per_canary * EFFORT.sampling_steps),
        (["fid", "kid", "recall", "prompt_agreement"], 2 * CONTROLS * EFFORT.sampling_steps),
        (["noise_magnitude"], 2 * CANARIES * EFFORT.noises),
        (["memorization", "membership_advantage"], 2 * (CANARIES + CONTROLS) * EFFORT.noises),
    ],
)
def test_reward_costs_the_forward_passes_of_what_it_asks_for(
    tiny_model: Model, reference: Reference, names: list[str], passes: int
) -> None:
    evaluation = Evaluation(tiny_model, reference, EFFORT)
    for name in names:
        REWARDS[name](evaluation)
    assert evaluation.forward_passes == passes


def test_canaries_images_are_those_that_the_sampler_draws(tiny_model: Model, reference: Reference) -> None:
    drawn = generate_images(
        tiny_model, reference.canaries.prompts, images_per_prompt=3, seed=EFFORT.seed, steps=2, guidance=ClassifierFreeGuidance(4.0)
    )
    assert np.array_equal(Evaluation(tiny_model, reference, EFFORT).canary_images.reshape(drawn.shape), drawn)


def test_each_control_has_a_noise_of_its_own(tiny_model: Model, reference: Reference) -> None:
    drawn = Evaluation(tiny_model, reference, EFFORT).control_images
    for row in (0, 4):
        prompt, seed = reference.controls.prompts[row], EFFORT.seed + row
        alone = generate_images(tiny_model, [prompt], images_per_prompt=1, seed=seed, steps=2, guidance=ClassifierFreeGuidance(4.0))
        assert np.abs(drawn[row].astype(int) - alone[0]).max() <= 1  # rounding of another batch shape


def test_prompts_are_encoded_as_many_at_a_time_as_images_are_drawn(
    tiny_model: Model, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_model.encode(reference.controls.prompts, truncate=True)
    monkeypatch.setattr(module, "batch_size", lambda _model: 3)
    sizes: list[int] = []
    hook = tiny_model.text_encoder.register_forward_pre_hook(lambda _encoder, inputs: sizes.append(len(inputs[0])))
    encoded = Evaluation(tiny_model, reference, EFFORT)._encoded(reference.controls.prompts)
    hook.remove()
    assert sizes == [3, 3, 1]
    assert torch.equal(encoded.token_ids_BL, whole.token_ids_BL)
    torch.testing.assert_close(encoded.embeddings_BLE, whole.embeddings_BLE)


def test_figures_are_the_same_again(tiny_model: Model, reference: Reference) -> None:
    rewards = [REWARDS["memorization"], REWARDS["fid"]]
    assert measure(tiny_model, reference, EFFORT, rewards) == measure(tiny_model, reference, EFFORT, rewards)


def test_prompt_beyond_the_window_is_cut_as_in_training(tiny_model: Model, reference: Reference) -> None:
    long = FilmSet([0], ["p"], [" ".join(["edema"] * 200)], reference.canaries.images_NHW[:1])
    evaluation = Evaluation(tiny_model, reference, EFFORT)
    assert evaluation._drawn(long, [0]).shape == (1, IMAGE_SIZE, IMAGE_SIZE)


def test_training_that_is_measured_ends_with_the_same_bits(reference: Reference) -> None:
    recipe = Recipe(steps=4, batch_size=2, learning_rate=1e-3, prompt_dropout=0.1, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (4, IMAGE_SIZE, IMAGE_SIZE)).astype(np.uint8)
    states = []
    for watched in (False, True):
        model = untrained_model()
        torch.manual_seed(3)
        loss = DenoisingLoss(model, TrainingSet(images, PROMPTS, np.ones(4, dtype=np.int64)), recipe)
        run = Run(recipe.modules(model), loss, recipe.optimisation)
        run.modules.train()
        for _ in range(3):
            run.advance()
            if watched:
                modes = [part.training for part in model.unet.modules()]
                with run.averaged():
                    measure(model, reference, EFFORT, [REWARDS["memorization"], REWARDS["copy_rate"], REWARDS["fid"]])
                assert [part.training for part in model.unet.modules()] == modes
        states.append(run.state().copied())
    assert states[0].facts == states[1].facts
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


def test_nothing_drops_out_while_a_model_is_measured(reference: Reference) -> None:
    model = untrained_model()
    model.unet.train()
    model.text_encoder.eval()
    modes: list[bool] = []
    hook = model.unet.register_forward_pre_hook(lambda unet, _inputs: modes.append(any(part.training for part in unet.modules())))
    measure(model, reference, EFFORT, [REWARDS["noise_magnitude"]])
    hook.remove()
    assert modes
    assert not any(modes)
    assert model.unet.training
    assert not model.text_encoder.training


def test_model_whose_weights_changed_forgets_its_empty_prompt(reference: Reference) -> None:
    model = untrained_model()
    stale = model.unconditional_1LE
    with torch.no_grad():
        model.text_encoder.get_parameter("embeddings.token_embedding.weight").mul_(3)
    measure(model, reference, EFFORT, [REWARDS["noise_magnitude"]])
    assert not torch.equal(model.unconditional_1LE, stale)


def test_model_that_answers_no_numbers_is_refused(reference: Reference) -> None:
    model = copy.deepcopy(untrained_model())
    with torch.no_grad():
        next(model.unet.parameters()).fill_(float("nan"))
    for name in ("copy_rate", "noise_magnitude"):
        with pytest.raises(ConflictError, match="no finite number"):
            measure(model, reference, EFFORT, [REWARDS[name]])


def test_whoever_is_told_of_batches_may_stop_and_the_model_is_left_as_it_was(reference: Reference) -> None:
    model = untrained_model()
    model.unet.train()

    def stop(_count: int) -> None:
        raise JobCancelledError

    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(JobCancelledError):
        measure(model, reference, EFFORT, [REWARDS["fid"]], on_batch=stop)
    assert model.unet.training
    assert not model.unet._forward_hooks
    assert torch.equal(torch.get_rng_state(), before)
