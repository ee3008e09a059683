"""The model that a training would leave now, swapped in for a look on its way; whoever looks keeps random streams (`measure` does)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run


@contextmanager
def undisturbed(run: Run, model: Model) -> Iterator[None]:
    """The averaged weights while inside; afterwards those that learn, bit for bit, and nothing derived from either is remembered."""
    try:
        with run.averaged():
            model.weights_changed()
            yield
    finally:
        model.weights_changed()
