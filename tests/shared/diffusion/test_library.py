"""Models in memory: loaded once, verified, the least recently used given up for room, and none in use."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from prometheus_client import REGISTRY
from safetensors.torch import load_file, save_file

from shared.catalog import ModelManifest, new_id
from shared.diffusion.library import ModelLibrary, expected_bytes
from shared.diffusion.model import Model
from shared.errors import IntegrityError, NotFoundError, OutOfDeviceMemoryError, SaturatedError
from tests.denoisers import held

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


@pytest.fixture
def commit(stocked_home: StockedHome, stocked_catalog: Catalog) -> Callable[[Path], str]:
    """Commits a folder as another model."""

    def commit_folder(folder: Path) -> str:
        manifest = stocked_home.model.model_copy(update={"id": new_id("model"), "files": [], "digest": ""})
        return stocked_catalog.commit(ModelManifest.model_validate(manifest.model_dump()), folder).id

    return commit_folder


@pytest.fixture
def size_bytes(tiny_model: Model) -> int:
    """What the stocked model takes."""
    return tiny_model.size_bytes


@pytest.fixture
def library(stocked_catalog: Catalog, size_bytes: int) -> ModelLibrary:
    """Room for two models."""
    return ModelLibrary(stocked_catalog, device="cpu", memory_bytes=2 * size_bytes)


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_model_is_loaded_once_and_named_by_its_digest(library: ModelLibrary, stocked_home: StockedHome) -> None:
    model = held(library, stocked_home.model.id)
    assert model.key == stocked_home.model.digest
    assert model.image_size == stocked_home.dataset.image_size
    assert held(library, stocked_home.model.id) is model


def test_many_threads_that_ask_at_once_get_one_model(library: ModelLibrary, stocked_home: StockedHome) -> None:
    with mock.patch.object(Model, "load", wraps=Model.load) as load, ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda model_id: held(library, model_id), [stocked_home.model.id] * 8))
    assert load.call_count == 1
    assert {id(model) for model in models} == {id(models[0])}


def test_least_recently_used_model_is_given_up(
    library: ModelLibrary, stocked_home: StockedHome, stocked_catalog: Catalog, commit: Callable[[Path], str]
) -> None:
    folder = stocked_catalog.fetch(stocked_home.model)
    first, second, third = stocked_home.model.id, commit(folder), commit(folder)
    loads, evictions = metric("lethe_model_load_duration_seconds_count"), metric("lethe_models_evicted_total")
    for model_id in (first, second, first, third):
        held(library, model_id)
    assert library.held == [first, third]
    assert library.held_bytes == metric("lethe_model_memory_bytes") == 2 * held(library, first).size_bytes
    assert metric("lethe_model_load_duration_seconds_count") == loads + 3
    assert metric("lethe_models_evicted_total") == evictions + 1


def test_model_in_use_is_not_given_up(
    library: ModelLibrary, stocked_home: StockedHome, stocked_catalog: Catalog, commit: Callable[[Path], str]
) -> None:
    folder = stocked_catalog.fetch(stocked_home.model)
    first, second, third, fourth = stocked_home.model.id, commit(folder), commit(folder), commit(folder)
    with library.use(first) as model:
        for model_id in (second, third):
            held(library, model_id)
        assert library.held == [first, third]
        assert held(library, first) is model
        with library.use(third), pytest.raises(SaturatedError, match="in use"):
            held(library, fourth)
    held(library, fourth)
    assert library.held == [third, fourth]


def test_model_larger_than_all_room_is_refused_before_others_are_given_up(
    stocked_home: StockedHome, stocked_catalog: Catalog, commit: Callable[[Path], str], stable_diffusion_folder: Path
) -> None:
    limit = expected_bytes(stocked_catalog.fetch(stocked_home.model)) - 1
    library = ModelLibrary(stocked_catalog, device="cpu", memory_bytes=limit)
    other = commit(stable_diffusion_folder)
    held(library, other)
    with pytest.raises(OutOfDeviceMemoryError, match=f"LETHE_MODEL_MEMORY_BYTES allows {limit} for all"):
        held(library, stocked_home.model.id)
    assert library.held == [other]


def test_expected_size_is_what_a_loaded_model_takes_but_for_buffers(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    folder = stocked_catalog.fetch(stocked_home.model)
    model = Model.load(folder, key="test")
    parts = (model.text_encoder, model.unet, model.vae)
    buffers = sum(buffer.numel() * buffer.element_size() for part in parts for buffer in part.buffers())
    assert expected_bytes(folder) == model.size_bytes - buffers


def test_half_precision_and_variants_are_weighed_as_they_are_loaded(
    stocked_home: StockedHome, stocked_catalog: Catalog, tmp_path: Path
) -> None:
    folder = tmp_path / "halved"
    shutil.copytree(stocked_catalog.fetch(stocked_home.model), folder)
    whole = expected_bytes(folder)
    for path in [*folder.rglob("*.safetensors")]:
        halved = {name: tensor.half() for name, tensor in load_file(path).items()}
        path.unlink()
        save_file(halved, path)
        save_file(halved, path.with_suffix(".fp16.safetensors"))
    assert expected_bytes(folder) == whole


def test_device_without_memory_is_told_in_type(library: ModelLibrary, stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfDeviceMemoryError, match="too little memory"), library.use(stocked_home.model.id):
        raise torch.OutOfMemoryError
    with library.use(stocked_home.model.id) as model:  # and it stays ready
        assert model.key == stocked_home.model.digest
    monkeypatch.setattr(Model, "load", mock.Mock(side_effect=torch.OutOfMemoryError))
    with pytest.raises(OutOfDeviceMemoryError, match="too little memory"):
        held(ModelLibrary(library._catalog, device="cpu"), stocked_home.model.id)


def test_gauge_is_true_after_room_was_made_for_a_model_that_did_not_load(
    stocked_home: StockedHome, stocked_catalog: Catalog, commit: Callable[[Path], str], size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModelLibrary(stocked_catalog, device="cpu", memory_bytes=size_bytes)
    held(library, stocked_home.model.id)
    assert metric("lethe_model_memory_bytes") == size_bytes
    other = commit(stocked_catalog.fetch(stocked_home.model))
    monkeypatch.setattr(Model, "load", mock.Mock(side_effect=torch.OutOfMemoryError))
    with pytest.raises(OutOfDeviceMemoryError):
        held(library, other)
    assert library.held == []
    assert metric("lethe_model_memory_bytes") == 0


def test_unknown_model_is_named(library: ModelLibrary) -> None:
    with pytest.raises(NotFoundError, match="model 'mdl_1'"):
        held(library, "mdl_1")


def test_damaged_weights_are_refused_and_nothing_is_held(library: ModelLibrary, stocked_home: StockedHome) -> None:
    path = stocked_home.folder / "store" / "models" / stocked_home.model.id / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        held(library, stocked_home.model.id)
    assert library.held == []


def test_committed_folder_that_is_no_model_is_not_the_callers_fault(
    library: ModelLibrary, commit: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "readme.txt").write_text("no model")
    with pytest.raises(IntegrityError, match=r"model_index\.json is missing"):
        held(library, commit(folder))


def test_stable_diffusion_folders_load_like_the_tiny_model(
    library: ModelLibrary, commit: Callable[[Path], str], stable_diffusion_folder: Path
) -> None:
    model = held(library, commit(stable_diffusion_folder))
    assert (model.token_limit, model.image_size, model.latent_shape) == (77, 32, (4, 8, 8))
    assert model.prediction_type in {"epsilon", "v_prediction"}


def test_only_one_thread_computes_at_a_time(library: ModelLibrary, stocked_home: StockedHome) -> None:
    together: list[int] = []
    inside = threading.Semaphore(0)
    count = 0

    def compute(_number: int) -> None:
        nonlocal count
        with library.use(stocked_home.model.id):
            count += 1
            together.append(count)
            time.sleep(0.01)
            count -= 1
        inside.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(compute, range(6)))
    assert together == [1] * 6
