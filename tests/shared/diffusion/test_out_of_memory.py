"""A device that is out of memory: the batch is halved once, then the refusal has a type."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch
from prometheus_client import REGISTRY

from shared.diffusion import out_of_memory
from shared.diffusion.out_of_memory import halved_where_needed, typed_out_of_memory
from shared.errors import OutOfDeviceMemoryError


class Device:
    """Doubles at most so many numbers at once, remembering the batches."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []

    def double(self, items: Sequence[int]) -> list[int]:
        self.batches.append(len(items))
        if len(items) > self.room:
            raise torch.OutOfMemoryError
        return [2 * item for item in items]


def halved() -> float:
    return REGISTRY.get_sample_value("lethe_batches_halved_total") or 0.0


@pytest.mark.parametrize(("room", "batches"), [(5, [5]), (3, [5, 2, 3])])
def test_batch_that_does_not_fit_is_worked_on_in_halves(room: int, batches: list[int]) -> None:
    device, before = Device(room), halved()
    assert halved_where_needed(device.double, [1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert device.batches == batches
    assert halved() == before + (len(batches) > 1)


@pytest.mark.parametrize(("items", "batches"), [([1, 2, 3, 4], [4, 2]), ([1], [1])])
def test_batch_is_halved_once_and_a_single_item_never(items: list[int], batches: list[int]) -> None:
    device = Device(room=0)
    with pytest.raises(OutOfDeviceMemoryError, match="too little memory"), typed_out_of_memory():
        halved_where_needed(device.double, items)
    assert device.batches == batches


def test_what_filled_the_memory_is_gone_before_memory_is_given_back_and_while_the_refusal_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[weakref.ref[torch.Tensor]] = []
    gone: list[bool] = []

    def fill() -> None:
        tensor = torch.zeros(1)
        filled.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(out_of_memory, "_give_back", lambda: gone.append(filled[0]() is None))
    with pytest.raises(OutOfDeviceMemoryError) as refused, typed_out_of_memory():
        fill()
    assert gone == [True]
    assert filled[0]() is None
    assert refused.value.__suppress_context__


def test_other_failures_stay_what_they_are() -> None:
    def fail(_items: Sequence[int]) -> list[int]:
        raise ValueError("unlucky")

    with pytest.raises(ValueError, match="unlucky"), typed_out_of_memory():
        halved_where_needed(fail, [1, 2])
