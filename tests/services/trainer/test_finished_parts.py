"""The parts that earlier phases made come back into a model that was built anew."""

from __future__ import annotations

import torch

from services.trainer.finished_parts import FinishedParts
from tests.denoisers import tiny_model


def test_parts_and_scaling_come_back() -> None:
    trained, fresh = tiny_model(1), tiny_model(2)
    trained.vae.register_to_config(scaling_factor=0.7)
    parts = FinishedParts(trained)
    parts.add("vae")
    kept = parts.state().copied()
    before = fresh.unconditional_1LE
    again = FinishedParts(fresh)
    again.restore(kept)
    assert fresh.vae.config.scaling_factor == 0.7
    assert all(torch.equal(a, b) for a, b in zip(fresh.vae.parameters(), trained.vae.parameters(), strict=True))
    assert not torch.equal(fresh.unet.conv_in.weight, trained.unet.conv_in.weight)
    assert fresh.unconditional_1LE is not before
    again.add("text_encoder")
    assert {name.partition("/")[0] for name in again.state().tensors} == {"vae", "text_encoder"}


def test_nothing_made_is_nothing_kept() -> None:
    model = tiny_model()
    kept = FinishedParts(model).state()
    assert kept.tensors == {}
    assert kept.facts == {"names": [], "scaling_factor": model.vae.config.scaling_factor}
