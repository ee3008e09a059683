"""A look at a model while it learns, after which the training goes on as if nobody had looked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.diffusion.model import Model
from shared.diffusion.random_streams import GlobalStreams


@contextmanager
def undisturbed(model: Model) -> Iterator[None]:
    """Nothing drops out, nothing learns, nothing old is remembered; afterwards modes and random streams are as they were."""
    streams = GlobalStreams().state()
    modes = {module: module.training for part in (model.unet, model.text_encoder, model.vae) for module in part.modules()}
    for module in modes:
        module.training = False
    model.weights_changed()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        model.weights_changed()
        GlobalStreams().restore(streams)
