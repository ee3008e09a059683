"""One unit of work: one method, one setting, one seed. Trained, measured, and on disk as soon as it is done."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.memorization.material import open_material
from benchmarks.memorization.measures import measure
from benchmarks.memorization.methods import UNTRAINED, Method, Setting, spec_of
from benchmarks.memorization.regime import Regime
from services.trainer.activation_memory import Networks
from services.trainer.denoising_loss import Recipe
from services.trainer.ensemble.in_process import train_ensemble
from services.trainer.preparation import prepare
from services.trainer.skip_counts import SkipCounts
from services.trainer.training import train_denoiser
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from shared.catalog.digests import content_digest
from shared.diffusion.model import Model


@dataclass(frozen=True)
class Unit:
    """What is to be done, and below which folder everything of this regime lies."""

    method: Method
    setting: Setting
    seed: int
    regime: Regime
    folder: Path

    @property
    def spec(self) -> TrainingSpec:
        """The training job."""
        return spec_of(self.method, self.setting, self.regime, self.seed)

    @property
    def path(self) -> Path:
        """Where the result lies; another regime or another job is another file."""
        digest = content_digest({"regime": asdict(self.regime), "spec": self.spec.model_dump(mode="json")})
        return self.folder / f"seed-{self.seed}" / "units" / f"{digest[:16]}.json"

    @property
    def result(self) -> dict[str, Any] | None:
        """What came of it, if it was done."""
        if not self.path.is_file():
            return None
        content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return content


def material_folder(folder: Path, regime: Regime, seed: int) -> Path:
    """Where the material of a seed lies."""
    return folder / f"seed-{seed}" / f"material-{content_digest(asdict(regime))[:16]}"


def make_material(folder: Path, regime: Regime, seed: int) -> float:
    """Have a seed's material on disk; answers the seconds it took."""
    began = time.perf_counter()
    open_material(regime, seed, material_folder(folder, regime, seed))
    return time.perf_counter() - began


def run_unit(unit: Unit) -> dict[str, Any]:
    """Train, measure, write."""
    material = open_material(unit.regime, unit.seed, material_folder(unit.folder, unit.regime, unit.seed))
    model = copy.deepcopy(material.base if unit.setting == "fine-tuned" else material.untrained)
    began, began_cpu = time.perf_counter(), time.process_time()
    trained = {} if unit.method.name == UNTRAINED else train(model, material.films.training_set(), unit.spec)
    seconds = time.process_time() - began_cpu  # of one thread: what else the machine does hardly counts
    model = replace(model, key=unit.path.stem)  # what was kept of the base's predictions is not this model's
    figures = measure(model, material, unit.regime, unit.seed)
    result = {
        "method": unit.method.name,
        "setting": unit.setting,
        "seed": unit.seed,
        "spec": unit.spec.model_dump(mode="json"),
        "real": material.facts,
        "fid_floor": material.facts["fid_floor"],
        **figures,
        **trained,
        "seconds": seconds,
        "step_seconds": seconds / unit.spec.steps,
        "seconds_with_measuring": time.perf_counter() - began,
    }
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    half = unit.path.with_suffix(".half")
    half.write_text(json.dumps(result, indent=2), encoding="utf-8")
    half.replace(unit.path)
    return result


def train(model: Model, films: TrainingSet, spec: TrainingSpec) -> dict[str, Any]:
    """Train as a job of this spec would, without store and records."""
    films = prepare(films, spec).films
    torch.manual_seed(spec.seed)
    could_learn = sum(p.numel() for p in model.unet.parameters())
    learnt = Networks.of(model, model.image_size).selected(spec.parameters)[0] if spec.parameters.is_partial else could_learn
    skips = SkipCounts(films)
    recipe = Recipe.of(spec)
    if spec.ensemble is not None:
        train_ensemble(model, films, recipe, spec.ensemble, lambda *_facts: None, skips)
    else:
        train_denoiser(model, films, recipe, lambda *_facts: None, skips=skips)
    visited = int(skips.visits_N.sum())
    return {
        "trainable_parameters": learnt,
        "trainable_fraction": learnt / could_learn,
        "skipped_share": int(skips.skips_N.sum()) / visited if visited else 0.0,
    }
