"""What a device that is out of memory means: half the batch once, and then a typed refusal; the service stays ready."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from prometheus_client import Counter

from shared.errors import OutOfDeviceMemoryError
from shared.telemetry import get_logger

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

HALVED = Counter("lethe_batches_halved_total", "Batches that did not fit into the device's memory and were worked on in halves.")

_LOG = get_logger(__name__)


@contextmanager
def typed_out_of_memory() -> Iterator[None]:
    """Raise OutOfDeviceMemoryError where torch finds no memory, with what it held given back."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that filled the memory
        _give_back()
        raise OutOfDeviceMemoryError("The device has too little memory for this; ask for less at once, or for a smaller model.") from None


def halved_where_needed(work: Callable[[Sequence[ItemT]], list[AnswerT]], items: Sequence[ItemT]) -> list[AnswerT]:
    """The answers to the items, worked on at once, or where that does not fit in two halves; one item cannot be halved."""
    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    _give_back()
    HALVED.inc()
    _LOG.warning("batch halved", items=len(items), consequence="slower, and refused if the halves do not fit either")
    middle = len(items) // 2
    return work(items[:middle]) + work(items[middle:])


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
