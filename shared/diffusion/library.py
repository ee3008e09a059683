"""The models that a service holds in memory: loaded from the catalog on first use, the least recently used given up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from shared.catalog import Catalog
from shared.diffusion.model import Model
from shared.errors import IntegrityError, InvalidRequestError

DEFAULT_CAPACITY: Final = 2


def available_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class ModelLibrary:
    """Models by id, at most `capacity` of them; safe to share between threads."""

    def __init__(self, catalog: Catalog, device: str | None = None, capacity: int = DEFAULT_CAPACITY) -> None:
        self._catalog = catalog
        self._device = device or available_device()
        self._capacity = capacity
        self._loading = threading.Lock()
        self._computing = threading.RLock()
        self._models: OrderedDict[str, Model] = OrderedDict()

    def get(self, model_id: str) -> Model:
        """The model, loaded when it is not held yet; NotFoundError when the catalog has none, IntegrityError when it is damaged."""
        with self._loading:
            model = self._models.get(model_id)
            if model is None:
                model = self._load(model_id)
            self._models[model_id] = model
            self._models.move_to_end(model_id)
            return model

    @contextmanager
    def use(self, model_id: str) -> Iterator[Model]:
        """The model, with the right to compute: no two forwards of one process run at the same time."""
        with self._computing:
            yield self.get(model_id)

    @property
    def held(self) -> list[str]:
        """The ids of the models in memory, least recently used first."""
        return list(self._models)

    def _load(self, model_id: str) -> Model:
        """Make room first, so that the old and the new model need not fit beside each other."""
        manifest = self._catalog.get("model", model_id)
        folder = self._catalog.fetch(manifest)
        while len(self._models) >= self._capacity:
            self._models.popitem(last=False)
        try:
            return Model.load(folder, key=manifest.digest, device=self._device)
        except InvalidRequestError as error:
            # It was checked when it was committed; the caller's request is not at fault.
            raise IntegrityError(f"The model {model_id} is not a folder that can be loaded: {error}") from error
