"""A look at a model while it learns, after which the training goes on as if nobody had looked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.diffusion.random_streams import GlobalStreams


@contextmanager
def undisturbed(run: Run, model: Model) -> Iterator[None]:
    """The model as the run would leave it now, from the averaged weights; afterwards weights and random streams are as they were."""
    streams = GlobalStreams().state()
    with run.averaged(), torch.no_grad():
        model.weights_changed()
        yield
    model.weights_changed()
    GlobalStreams().restore(streams)
