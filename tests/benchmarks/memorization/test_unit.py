"""A unit is one training job and its result; another job or another regime is another unit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.material import phantom_films, random_model
from benchmarks.memorization.methods import BASELINE, METHODS, Method, spec_of
from benchmarks.memorization.regime import QUICK
from benchmarks.memorization.unit import Unit, train

if TYPE_CHECKING:
    from pathlib import Path

SHORT = replace(QUICK, steps=4, batch=4)
BY_NAME = {method.name: method for method in METHODS}


def test_another_job_or_regime_lies_elsewhere(tmp_path: Path) -> None:
    unit = Unit(BY_NAME[BASELINE], "fine-tuned", 0, QUICK, tmp_path)
    others: list[dict[str, Any]] = [{"setting": "from scratch"}, {"seed": 1}, {"regime": SHORT}, {"method": BY_NAME["AGC"]}]
    assert len({unit.path, *(replace(unit, **other).path for other in others)}) == 5
    assert unit.path == Unit(BY_NAME[BASELINE], "fine-tuned", 0, QUICK, tmp_path).path


def test_result_is_what_lies_there(tmp_path: Path) -> None:
    unit = Unit(BY_NAME[BASELINE], "fine-tuned", 0, QUICK, tmp_path)
    assert unit.result is None
    unit.path.parent.mkdir(parents=True)
    unit.path.write_text(json.dumps({"copies": 0.5}))
    assert unit.result == {"copies": 0.5}


@pytest.mark.parametrize("name", [BASELINE, "SV-DIFF", "multiple captions", "deduplication", "magnitude filter"])
def test_every_kind_of_job_trains_the_denoiser_and_nothing_else(name: str) -> None:
    films = phantom_films(8, 0, canaries=2, repeats=3, image_size=32).training_set()
    model = random_model(films.prompts, 0, 32)
    before = {part: [p.detach().clone() for p in getattr(model, part).parameters()] for part in ("unet", "vae", "text_encoder")}
    told = train(model, films, spec_of(BY_NAME[name], "fine-tuned", SHORT, 0))
    moved = {
        part: not all(torch.equal(a, b) for a, b in zip(kept, getattr(model, part).parameters(), strict=True))
        for part, kept in before.items()
    }
    assert moved == {"unet": True, "vae": False, "text_encoder": False}
    assert told["trainable_fraction"] == (pytest.approx(0.00316, rel=0.01) if name == "SV-DIFF" else 1)
    assert (told["skipped_share"] > 0) == (name == "magnitude filter")


def test_ensemble_is_trained_in_rounds() -> None:
    films = phantom_films(8, 0, canaries=2, repeats=3, image_size=32).training_set()
    model = random_model(films.prompts, 0, 32)
    method = Method("small ensemble", {"ensemble": {"kind": "iet", "shards": 2, "rounds": 2}, "batch_filter": {"kind": "anti_gradient"}})
    before = [p.detach().clone() for p in model.unet.parameters()]
    told = train(model, films, spec_of(method, "from scratch", SHORT, 0))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.unet.parameters(), strict=True))
    assert 0 <= told["skipped_share"] < 1
