"""The models that a service holds in memory: loaded from the catalog on first use, the least recently used given up for room."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from shared.catalog import Catalog
from shared.diffusion.device import announce_device
from shared.diffusion.device_memory import publish_device_memory
from shared.diffusion.model import Model
from shared.diffusion.model_folder import WEIGHTED_COMPONENTS
from shared.diffusion.out_of_memory import typed_out_of_memory
from shared.diffusion.safetensors_header import read_header
from shared.errors import IntegrityError, InvalidRequestError, OutOfDeviceMemoryError, SaturatedError

DEFAULT_MEMORY_BYTES: Final = 8 * 2**30  # one Stable Diffusion 2.1 in fp32 takes 5.2 GB
BYTES_PER_NUMBER: Final = 4  # whatever the file holds, the model is loaded in fp32
LOADED_FILE: Final = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")  # variants beside them are not read

HELD = Gauge("lethe_model_memory_bytes", "Parameters and buffers of the models that are held.")
LOADING = Histogram(
    "lethe_model_load_duration_seconds",
    "From the start of fetching a model that is not held to its being ready.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
EVICTED = Counter("lethe_models_evicted_total", "Models given up to make room for others.")


@dataclass(eq=False)
class _Held:
    """A model in memory, what it takes, and how many work with it just now."""

    model: Model
    size_bytes: int
    users: int = 0


class ModelLibrary:
    """Models by id, as many as `memory_bytes` have room for; safe to share between threads."""

    def __init__(self, catalog: Catalog, device: str | None = None, *, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self._catalog = catalog
        self._device = device or announce_device()
        publish_device_memory(self._device)
        self._memory_bytes = memory_bytes
        self._computing = threading.RLock()
        self._models: OrderedDict[str, _Held] = OrderedDict()

    @contextmanager
    def use(self, model_id: str) -> Iterator[Model]:
        """The model, with the right to compute: no two forwards of one process run at the same time. It is not given up meanwhile.

        NotFoundError when the catalog has none, IntegrityError when it is damaged, OutOfDeviceMemoryError when it takes more than
        the library may hold, SaturatedError while models in use leave no room.
        """
        with self._computing, typed_out_of_memory():
            held = self._get(model_id)
            held.users += 1
            try:
                yield held.model
            finally:
                held.users -= 1

    @property
    def held(self) -> list[str]:
        """The ids of the models in memory, least recently used first."""
        return list(self._models)

    @property
    def held_bytes(self) -> int:
        """What they take."""
        return sum(held.size_bytes for held in self._models.values())

    def _get(self, model_id: str) -> _Held:
        held = self._models.get(model_id) or self._load(model_id)
        self._models[model_id] = held
        self._models.move_to_end(model_id)
        HELD.set(self.held_bytes)
        return held

    def _load(self, model_id: str) -> _Held:
        """Make room first, so that the old and the new model need not fit beside each other."""
        manifest = self._catalog.get("model", model_id)
        with LOADING.time(), typed_out_of_memory():
            folder = self._catalog.fetch(manifest)
            try:
                self._make_room(model_id, expected_bytes(folder))
                model = Model.load(folder, key=manifest.digest, device=self._device)
            except InvalidRequestError as error:
                # It was checked when it was committed; the caller's request is not at fault.
                raise IntegrityError(f"The model {model_id} is not a folder that can be loaded: {error}") from error
            self._make_room(model_id, model.size_bytes)  # buffers are in no file
            return _Held(model, model.size_bytes)

    def _make_room(self, model_id: str, needed: int) -> None:
        """Give up what was used longest ago, but nothing that is in use."""
        if needed > self._memory_bytes:
            raise OutOfDeviceMemoryError(
                f"The model {model_id} takes {needed} bytes, and LETHE_MODEL_MEMORY_BYTES allows {self._memory_bytes} for all."
            )
        while self.held_bytes + needed > self._memory_bytes:
            idle = next((name for name, held in self._models.items() if not held.users), None)
            if idle is None:
                raise SaturatedError("The models in use leave no room for another; try again later.")
            del self._models[idle]
            HELD.set(self.held_bytes)
            EVICTED.inc()


def expected_bytes(folder: Path) -> int:
    """What a model folder's weights will take when they are loaded, read from the headers of its files."""
    files = [
        path for part in sorted(WEIGHTED_COMPONENTS) for path in (folder / part).glob("*.safetensors") if LOADED_FILE.fullmatch(path.name)
    ]
    tensors = [facts for path in files for facts in read_header(path, path.relative_to(folder).as_posix()).values()]
    return sum(math.prod(facts.shape) * BYTES_PER_NUMBER for facts in tensors)
