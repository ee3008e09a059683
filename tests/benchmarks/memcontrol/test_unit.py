"""A training is done once, ended where it is told to, kept as far as it came, and made again out of what it learnt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.memcontrol import unit as module
from benchmarks.memcontrol.unit import Outcome, Unit, judged, outcome_of, trained_model
from services.trainer.training_spec import TrainingSpec
from tests.benchmarks.memcontrol.made_up import site_in
from tests.denoisers import tiny_model
from tests.services.trainer.search.toy import estimate
from tests.training_films import films

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shared.diffusion.model import Model


def answer(model: Model) -> float:
    with torch.no_grad():
        x = torch.randn((2, *model.latent_shape), generator=torch.Generator().manual_seed(5))
        return float(model.predict_noise(x, torch.tensor([100, 700]), model.encode(["a", "b"]).embeddings_BLE).square().mean())


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tiny model in the material's place and what it answers in the rewards'; lists the trainings that were begun."""
    begun: list[str] = []
    train = module._train

    def measured(_unit: Unit, model: Model, rewards: Sequence[str], **_asked: Any) -> dict[str, Any]:
        return {name: estimate(answer(model)) for name in rewards}

    def telling(unit: Unit, *asked: Any) -> Outcome:
        begun.append(unit.key)
        return train(unit, *asked)

    monkeypatch.setattr(module, "material_of", lambda _site: SimpleNamespace(base=tiny_model(), films=SimpleNamespace(training_set=films)))
    monkeypatch.setattr(module, "_measured", measured)
    monkeypatch.setattr(module, "_train", telling)
    return begun


def unit_in(folder: Path, **asked: Any) -> Unit:
    told = {"name": "a", "dataset": "ds_1", "base": "mdl_1", "text_encoder": "frozen", "steps": 4, "batch_size": 4, "learning_rate": 1e-2}
    return Unit(site_in(folder), TrainingSpec.model_validate(told | {"parameters": {"kind": "svdiff"}} | asked))


def test_training_is_done_once_and_looks_on_the_way_change_nothing(tmp_path: Path, trained: list[str]) -> None:
    unit = unit_in(tmp_path / "one")
    plain = outcome_of(unit)
    assert (plain.steps, plain.rungs, list(plain.values or {})) == (4, {}, ["memorization", "fid", "copy_rate"])
    assert 0 < plain.trainable_fraction < 0.01
    assert outcome_of(unit) == plain
    assert len(trained) == 1
    looked = outcome_of(unit, [1, 3])
    assert (looked.values, list(looked.rungs), len(trained)) == (plain.values, [1, 3], 2)
    assert outcome_of(unit, [3]) == looked
    assert outcome_of(unit) == looked
    assert len(trained) == 2
    assert looked.rungs[1]["fid"]["value"] != looked.rungs[3]["fid"]["value"]


def test_training_ends_where_it_is_told_to_and_goes_on_for_who_asks_for_more(tmp_path: Path, trained: list[str]) -> None:
    unit = unit_in(tmp_path)
    ended = outcome_of(unit, [1, 3], lambda step, _values: step < 3)
    assert (ended.steps, list(ended.rungs), ended.values) == (3, [1, 3], None)
    earlier = outcome_of(unit, [1, 3], lambda _step, _values: False)
    assert (earlier.steps, list(earlier.rungs)) == (1, [1])
    assert earlier.seconds == pytest.approx(ended.seconds / 3)
    assert len(trained) == 1
    whole = outcome_of(unit, [1, 3])
    assert (whole.steps, whole.rungs) == (4, ended.rungs)
    assert outcome_of(unit, [1, 3], lambda step, _values: step < 3).values is None
    assert len(trained) == 2


def test_what_was_ended_early_takes_nothing_from_what_was_whole(tmp_path: Path, trained: list[str]) -> None:
    unit = unit_in(tmp_path)
    whole = outcome_of(unit)
    assert outcome_of(unit, [2], lambda _step, _values: False).values is None
    again = outcome_of(unit)
    assert (again.values, list(again.rungs), again.steps) == (whole.values, [2], 4)
    assert len(trained) == 2


@pytest.mark.parametrize("parameters", [{"kind": "svdiff"}, {"kind": "lora", "ranks": [2, 0, 4, 1]}, {"kind": "full"}])
def test_model_is_made_again_out_of_what_it_learnt(tmp_path: Path, trained: list[str], parameters: dict[str, Any]) -> None:
    unit = unit_in(tmp_path, parameters=parameters)
    value = (outcome_of(unit).values or {})["fid"]["value"]
    assert answer(trained_model(unit)) == pytest.approx(value, rel=1e-4)
    assert answer(tiny_model()) != pytest.approx(value, rel=1e-4)
    assert judged(unit)["fid"]["value"] == pytest.approx(value, rel=1e-4)
    kept = unit.judged_path.stat().st_mtime_ns
    assert judged(unit)["fid"]["value"] == pytest.approx(value, rel=1e-4)
    assert unit.judged_path.stat().st_mtime_ns == kept
    assert len(trained) == 1


def test_other_trainings_have_other_files(tmp_path: Path) -> None:
    units = [unit_in(tmp_path), unit_in(tmp_path, seed=1), unit_in(tmp_path, parameters={"kind": "svdiff", "mask": [1, 0, 1, 1]})]
    assert len({unit.path for unit in units}) == 3
