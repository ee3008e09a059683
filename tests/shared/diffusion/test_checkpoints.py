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


def test_one_part_is_replaced_and_the_others_stay() -> None:
    whole = State.joined({"deck": State({"a": torch.ones(1), "b": torch.ones(1)}, {"place": 1}), "decks": State({"a": torch.ones(2)})})
    other = whole.with_part("deck", State({"a": torch.zeros(1)}, {"place": 2}))
    assert {name: tensor.tolist() for name, tensor in other.tensors.items()} == {"decks/a": [1, 1], "deck/a": [0]}
    assert other.facts == {"deck": {"place": 2}, "decks": {}}
    assert whole.facts["deck"] == {"place": 1}


def test_copy_does_not_follow_the_training() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3).T)
    copy = State({"weight": weight}, {}).copied()
    with torch.no_grad():
        weight.zero_()
    kept = copy.tensors["weight"]
    assert kept.tolist() == [[1, 1]] * 3
    assert kept.is_contiguous()
    assert not kept.requires_grad
