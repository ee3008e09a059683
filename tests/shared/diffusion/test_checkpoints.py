"""States: joined, parted, copied."""

from __future__ import annotations

import torch

from shared.diffusion.checkpoints import State


def test_joined_states_come_apart_again() -> None:
    inner = State({"weight": torch.ones(2)}, {"step": 3})
    whole = State.joined({"model": State.joined({"unet": inner}), "order": State(facts={"place": 7})})
    assert list(whole.tensors) == ["model/unet/weight"]
    assert whole.facts == {"model": {"unet": {"step": 3}}, "order": {"place": 7}}
    again = whole.part("model").part("unet")
    assert torch.equal(again.tensors["weight"], inner.tensors["weight"])
    assert again.facts == {"step": 3}
    assert whole.part("order").tensors == {}


def test_copy_does_not_follow_the_training() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3).T)
    copy = State({"weight": weight}, {}).copied()
    with torch.no_grad():
        weight.zero_()
    kept = copy.tensors["weight"]
    assert kept.tolist() == [[1, 1]] * 3
    assert kept.is_contiguous()
    assert not kept.requires_grad
