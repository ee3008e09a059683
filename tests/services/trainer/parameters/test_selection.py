"""Trainings of parts of the tiny denoiser: what moves, what resumes, and that a plain model comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter

from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.parameters.attention_modules import attention_modules
from services.trainer.parameters.attention_names import in_order
from services.trainer.parameters.kinds import AnyParameters
from services.trainer.parameters.low_rank import LowRankLinear
from services.trainer.parameters.selection import PartOfDenoiser, select_parameters
from services.trainer.parameters.singular_values import SpectralNorm
from services.trainer.parameters.stand_in import StandIn
from services.trainer.training import train_denoiser
from services.trainer.training_spec import TrainingSpec
from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.errors import InvalidRequestError
from tests.denoisers import tiny_model
from tests.training_films import films

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

KINDS: TypeAdapter[AnyParameters] = TypeAdapter(AnyParameters)
TOLD: list[dict[str, Any]] = [{"kind": "attention"}, {"kind": "bias_norm"}, {"kind": "svdiff"}, {"kind": "diffit"}, {"kind": "lora"}]
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


def test_adapters_alone_move_while_they_learn() -> None:
    recipe, model, plain = replace(recipe_of({"kind": "lora"}), steps=10), tiny_model(), tiny_model()
    run = Run(recipe.modules(model), DenoisingLoss(model, films(), recipe), recipe.optimisation)
    first = [p.detach().clone() for p in run.parameters]
    run.advance_until(10)
    assert all(not torch.equal(p, before) for p, before in zip(run.parameters, first, strict=True))
    now = {name.replace(".plain.", "."): w for name, w in model.unet.state_dict().items() if ".lora_" not in name}
    assert now.keys() == plain.unet.state_dict().keys()
    assert all(torch.equal(now[name], w) for name, w in plain.unet.state_dict().items())


@pytest.mark.parametrize("kind", ["full", "bias_norm", "lora", "svdiff", "diffit"])
def test_mask_chooses_what_the_names_choose(kind: str) -> None:
    chosen = [
        {name for name, p in unet.named_parameters() if p.requires_grad}
        for told in ({"mask": [0, 0, 1, 0]}, {"blocks": ["up_blocks.0.attentions.0"]}, {})
        for unet in [tiny_model().unet]
        if select_parameters(unet, KINDS.validate_python({"kind": kind} | told)).count
    ]
    if kind == "diffit":  # of which biases and norms learn everywhere
        chosen = [{name for name in names if name.endswith(".gamma")} for names in chosen]
    assert chosen[0] == chosen[1] < chosen[2]
    inside = {name for name in chosen[0] if ".transformer_blocks." in name}
    assert inside
    assert all(name.startswith("up_blocks.0.attentions.0.") for name in inside)
    assert (kind in {"lora", "diffit"}) == all("attentions" in name for name in chosen[0])


def test_ranks_say_which_modules_have_adapters_and_how_large() -> None:
    unet, ranks = tiny_model().unet, [2, 0, 4, 1]
    chosen = select_parameters(unet, KINDS.validate_python({"kind": "lora", "ranks": ranks}))
    adapters = {name: module for name, module in unet.named_modules() if isinstance(module, LowRankLinear)}
    found = [(name.split(".transformer_blocks.")[0], len(adapter.lora_A.weight)) for name, adapter in adapters.items()]
    known = in_order(attention_modules(unet))
    assert sorted(found) == sorted([(known[0], 2), (known[2], 4), (known[3], 1)] * 8)  # q, k, v, out of two attentions
    same = select_parameters(tiny_model().unet, KINDS.validate_python({"kind": "lora", "ranks": [4] * 4})).count
    assert same == select_parameters(tiny_model().unet, KINDS.validate_python({"kind": "lora"})).count > chosen.count


def test_what_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="tells of 16 attention modules, and the base has 4: ") as refused:
        select_parameters(tiny_model().unet, KINDS.validate_python({"kind": "bias_norm", "mask": [1] * 16}))
    assert refused.value.field == "parameters.mask"


def test_full_lets_everything_learn() -> None:
    unet = tiny_model().unet
    assert select_parameters(unet, KINDS.validate_python({"kind": "full"})).count == sum(p.numel() for p in unet.parameters())


# ---------------------------------------------------------------- rates


def run_of(parameters: dict[str, Any], *, text_encoder: str = "frozen", steps: int = 6) -> tuple[Model, Run]:
    """A training as a job begins it."""
    base = {"base": "mdl_1"} if text_encoder == "frozen" else {}
    spec = {"name": "a", "dataset": "ds_1", "text_encoder": text_encoder, "steps": steps, "batch_size": 4, "learning_rate": 1e-2}
    recipe, model = Recipe.of(TrainingSpec.model_validate(spec | base | {"parameters": parameters})), tiny_model()
    return model, Run(recipe.modules(model), DenoisingLoss(model, films(), recipe), recipe.optimisation)


def peaks(run: Run) -> list[tuple[float, int]]:
    """The highest rate of each group, and how many parameters have it."""
    return [(group["max_lr"], len(group["params"])) for group in run.optimiser.param_groups]


def test_denoiser_may_have_a_rate_that_the_text_encoder_has_not() -> None:
    model, run = run_of({"kind": "full", "learning_rate": 1e-4}, text_encoder="train")
    assert peaks(run) == [(1e-4, len(list(model.unet.parameters()))), (1e-2, len(list(model.text_encoder.parameters())))]


def test_rate_of_the_selection_is_the_training_of_that_rate() -> None:
    ended = []
    for wishes in ({"learning_rate": 1e-2}, {}):
        _, run = run_of({"kind": "bias_norm"} | wishes)
        run.advance_until(3)
        ended.append([p.detach().clone() for p in run.parameters])
        assert len(run.optimiser.param_groups) == 1
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))


def test_norms_move_at_their_own_rate_and_resume_to_the_same_bits() -> None:
    told = {"kind": "svdiff", "learning_rate": 1e-3, "norm_learning_rate": 1e-6}
    model, run = run_of(told)
    norms = {id(module.delta) for module in model.unet.modules() if isinstance(module, SpectralNorm)}
    assert sorted(peaks(run)) == [(1e-6, len(norms)), (1e-3, len(run.parameters) - len(norms))]
    run.advance_until(3)
    state = kept(run.state())
    run.advance_until(6)
    moved = {id(p) in norms: float(p.detach().abs().max()) for p in run.parameters}
    assert 0 < moved[True] < 1e-5 < moved[False]
    _, resumed = run_of(told)
    resumed.restore(state)
    resumed.advance_until(6)
    assert all(torch.equal(one, other) for one, other in zip(run.parameters, resumed.parameters, strict=True))
    assert [group["lr"] for group in run.optimiser.param_groups] == [group["lr"] for group in resumed.optimiser.param_groups]
