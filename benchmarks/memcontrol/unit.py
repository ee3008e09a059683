"""One training, measured at its rungs and at its end: done once, whoever asks for it, and on disk as soon as it is.

A training's figures follow from site, spec and steps alone, so that all contenders of a seed may share them.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.memcontrol.contenders import OBJECTIVES
from benchmarks.memcontrol.site import Site, material_of, reference_of
from services.trainer.denoising_loss import DenoisingLoss, Recipe
from services.trainer.parameters.learning_parameters import merge_learnt
from services.trainer.preparation import prepare
from services.trainer.training_spec import TrainingSpec
from shared.catalog.digests import content_digest
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.memorization.rewards.evaluation import measure
from shared.memorization.rewards.registry import open_rewards
from shared.memorization.statistics import Estimate

COPIES: Final = "copy_rate"  # told beside the objectives; no contender is led by it
JUDGED: Final = (*OBJECTIVES, COPIES, "prompt_agreement")

Values = dict[str, Estimate]
GoesOn = Callable[[int, Values], bool]
"""Told the step of a rung and what was measured there; answers whether the training goes on."""


@dataclass(frozen=True)
class Outcome:
    """How far a training came, what was measured at the rungs, and at its end if it came there."""

    steps: int
    seconds: float
    trainable_parameters: int
    trainable_fraction: float
    rungs: dict[int, Values] = field(default_factory=dict)
    values: Values | None = None

    def until(self, step: int) -> Outcome:
        """As if it had been ended at this rung; the seconds are its share of the steps."""
        rungs = {at: values for at, values in self.rungs.items() if at <= step}
        return replace(self, steps=step, seconds=self.seconds * step / self.steps, rungs=rungs, values=None)

    @classmethod
    def read(cls, path: Path) -> Outcome | None:
        """What was kept, if anything was."""
        if not path.is_file():
            return None
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**kept | {"rungs": {int(step): values for step, values in kept["rungs"].items()}})


@dataclass(frozen=True)
class Unit:
    """A training at a site."""

    site: Site
    spec: TrainingSpec

    @property
    def key(self) -> str:
        """What it is."""
        return content_digest(self.spec.model_dump(mode="json"))[:16]

    @property
    def path(self) -> Path:
        """Where its figures lie; what was learnt lies beside them."""
        return self.site.home / "units" / f"{self.key}.json"

    @property
    def judged_path(self) -> Path:
        """Where the figures lie that nothing was chosen by."""
        return self.path.with_suffix(".judged.json")


# ---------------------------------------------------------------- training


def outcome_of(unit: Unit, rungs: Sequence[int] = (), goes_on: GoesOn = lambda _step, _values: True) -> Outcome:
    """What was kept of the training as far as it is asked for, or the training itself."""
    kept = Outcome.read(unit.path)
    if kept is not None:
        for step in rungs:
            if step not in kept.rungs:
                break
            if not goes_on(step, kept.rungs[step]):
                return kept.until(step)
        else:
            if kept.values is not None:
                return kept
    return _train(unit, rungs, goes_on)


def _train(unit: Unit, rungs: Sequence[int], goes_on: GoesOn) -> Outcome:
    """As a job of this spec would, without store and records; measured from the averaged weights while they still learn."""
    material, spec = material_of(unit.site), unit.spec
    model = replace(copy.deepcopy(material.base), key=unit.key)  # what is kept of the base's predictions is not this model's
    could_learn = sum(p.numel() for p in model.unet.parameters())
    torch.manual_seed(spec.seed)
    recipe = Recipe.of(spec)
    loss = DenoisingLoss(model, prepare(material.films.training_set(), spec).films, recipe)
    run = Run(recipe.modules(model), loss, recipe.optimisation)
    learns = sum(p.numel() for p in run.parameters)
    measured: dict[int, Values] = {}
    seconds = 0.0
    for step in (*rungs, spec.steps):
        began = time.process_time()  # of one thread: what else the machine does hardly counts
        run.advance_until(step)
        seconds += time.process_time() - began
        is_last = step == spec.steps
        with run.averaged():
            values = _measured(unit, model, (*OBJECTIVES, COPIES) if is_last else OBJECTIVES)
        if is_last:
            break
        measured[step] = values
        if not goes_on(step, values):
            break
    outcome = Outcome(run.step, seconds, learns, learns / could_learn, measured, values if is_last else None)
    if is_last:
        run.finish()
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        save_file({str(place): p.detach() for place, p in enumerate(run.parameters)}, unit.path.with_suffix(".safetensors"))
    _keep(unit, outcome)
    return outcome


def _keep(unit: Unit, outcome: Outcome) -> None:
    """Write an outcome down; one that was ended early adds its rungs to a whole one."""
    kept = Outcome.read(unit.path)
    if kept is not None and kept.values is not None and outcome.values is None:
        outcome = replace(kept, rungs=kept.rungs | outcome.rungs)
    write_whole(unit.path, vars(outcome))


def _measured(unit: Unit, model: Model, rewards: Sequence[str], *, held_out: bool = False) -> Values:
    site = unit.site
    effort = site.regime.effort(site.seed, held_out=held_out)
    return measure(model, reference_of(site, held_out=held_out), effort, open_rewards(rewards))


# ---------------------------------------------------------------- looking again


def judged(unit: Unit) -> Values:
    """A finished training measured by prompts and noises that nothing was chosen by."""
    if unit.judged_path.is_file():
        values: Values = json.loads(unit.judged_path.read_text(encoding="utf-8"))
        return values
    values = _measured(unit, trained_model(unit), JUDGED, held_out=True)
    write_whole(unit.judged_path, values)
    return values


def trained_model(unit: Unit) -> Model:
    """The model again, out of its base and what was learnt."""
    model = replace(copy.deepcopy(material_of(unit.site).base), key=unit.key)
    modules = Recipe.of(unit.spec).modules(model)
    learnt = load_file(unit.path.with_suffix(".safetensors"))
    with torch.no_grad():
        for place, p in enumerate(p for p in nn.ModuleList(modules).parameters() if p.requires_grad):
            p.copy_(learnt[str(place)])
    merge_learnt(modules)
    model.unet.eval()
    model.weights_changed()
    return model


def write_whole(path: Path, content: Any) -> None:
    """A file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.half")
    half.write_text(json.dumps(content, indent=2), encoding="utf-8")
    half.replace(path)
