"""Trainings of parts of the tiny denoiser: what moves, what resumes, and that a plain model comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter

from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.parameters.kinds import AnyParameters
from services.trainer.parameters.selection import PartOfDenoiser, select_parameters
from services.trainer.parameters.stand_in import StandIn
from services.trainer.training import train_denoiser
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from tests.denoisers import tiny_model
from tests.training_films import films

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

KINDS: TypeAdapter[AnyParameters] = TypeAdapter(AnyParameters)
TOLD: list[dict[str, Any]] = [{"kind": "attention"}, {"kind": "bias_norm"}, {"kind": "svdiff"}, {"kind": "diffit"}]
BLOCK = "up_blocks.0.attentions.1"


def recipe_of(told: dict[str, Any]) -> Recipe:
    """A short training."""
    return Recipe(
        steps=4,
        batch_size=4,
        learning_rate=1e-2,
        prompt_dropout=0.1,
        seed=0,
        parameters=PartOfDenoiser(KINDS.validate_python(told)),
        text_encoder="frozen",
    )


def answer(model: Model) -> Tensor:
    """What the denoiser says of fixed noise."""
    with torch.no_grad():
        x = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(5))
        return model.predict_noise(x, torch.tensor([1, 400, 900]), model.encode(["a", "b", "c"]).embeddings_BLE)


def train(told: dict[str, Any], recipe: Recipe | None = None) -> Model:
    """The tiny model after a training."""
    model = tiny_model()
    train_denoiser(model, films(), recipe or recipe_of(told), lambda *_told: None)
    return model


def kept(state: State) -> State:
    """As a checkpoint would bring it back."""
    return State({name: tensor.clone() for name, tensor in state.tensors.items()}, state.facts)


@pytest.fixture(params=TOLD, ids=lambda told: str(told["kind"]))
def told(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Each kind."""
    return request.param


def test_before_the_first_step_the_network_answers_what_it_did(told: dict[str, Any]) -> None:
    model = tiny_model()
    before = answer(model)
    select_parameters(model.unet, KINDS.validate_python(told))
    torch.testing.assert_close(answer(model), before, rtol=1e-4, atol=1e-4)


def test_merged_network_answers_what_the_learning_one_did(told: dict[str, Any]) -> None:
    model = tiny_model()
    before = answer(model)
    chosen = select_parameters(model.unet, KINDS.validate_python(told))
    with torch.no_grad():
        for parameter in chosen.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    learnt = answer(model)
    assert (learnt - before).abs().max() > 1e-3
    chosen.merge()
    assert not any(isinstance(module, StandIn) for module in model.unet.modules())
    torch.testing.assert_close(answer(model), learnt, rtol=1e-4, atol=1e-4)


def test_training_ends_with_an_ordinary_folder(told: dict[str, Any], tmp_path: Path) -> None:
    model = train(told)
    plain = tiny_model()
    assert {name: w.shape for name, w in model.unet.state_dict().items()} == {name: w.shape for name, w in plain.unet.state_dict().items()}
    assert (answer(model) - answer(plain)).abs().max() > 1e-3
    model.save(tmp_path)
    assert torch.equal(answer(Model.load(tmp_path, key="again")), answer(model))


def test_resumed_run_ends_with_the_bits_of_the_undisturbed_one(told: dict[str, Any]) -> None:
    recipe = recipe_of(told)
    ended = []
    model = tiny_model()
    run = Run(recipe.modules(model), DenoisingLoss(model, films(), recipe), recipe.optimisation)
    run.modules.train()
    for step in range(recipe.steps):
        if step == 2:
            state = kept(run.state())
        run.advance()
    ended.append([p.detach().clone() for p in run.parameters])
    again = tiny_model()
    resumed = Run(recipe.modules(again), DenoisingLoss(again, films(), recipe), recipe.optimisation)
    resumed.restore(state)
    resumed.modules.train()
    while resumed.step < recipe.steps:
        resumed.advance()
    ended.append([p.detach().clone() for p in resumed.parameters])
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))
    numbers = sum(p.numel() for p in run.parameters)
    assert sum(t.numel() for name, t in state.tensors.items() if name.startswith("modules")) == numbers  # the base is not kept


def test_recomputed_blocks_and_bfloat16_learn_too(told: dict[str, Any]) -> None:
    model = train(told, replace(recipe_of(told), gradient_checkpointing=True, precision="bf16"))
    assert (answer(model) - answer(tiny_model())).abs().max() > 1e-3


def test_composes_with_what_else_joins_the_step(told: dict[str, Any]) -> None:
    wishes = {"batch_filter": {"kind": "anti_gradient"}, "captions": [{"kind": "random_tokens"}], "timesteps": "u_shaped"}
    spec = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "text_encoder": "frozen", "steps": 2, "batch_size": 4, "parameters": told}
    model = train(told, Recipe.of(TrainingSpec.model_validate(spec | wishes)))
    assert (answer(model) - answer(tiny_model())).abs().max() > 1e-4


def test_only_what_was_named_moves() -> None:
    before, after = tiny_model(), train({"kind": "attention", "blocks": [BLOCK]})
    moved = [
        name for (name, w), old in zip(after.unet.named_parameters(), before.unet.parameters(), strict=True) if not torch.equal(w, old)
    ]
    assert moved
    assert all(name.startswith(BLOCK) for name in moved)
    for one, other in ((before.text_encoder, after.text_encoder), (before.vae, after.vae)):
        assert all(torch.equal(w, old) for w, old in zip(one.parameters(), other.parameters(), strict=True))


def test_full_lets_everything_learn() -> None:
    unet = tiny_model().unet
    assert select_parameters(unet, KINDS.validate_python({"kind": "full"})).count == sum(p.numel() for p in unet.parameters())
