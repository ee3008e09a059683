"""Models in memory: loaded once, verified, the least recently used given up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from shared.catalog import ModelManifest, new_id
from shared.diffusion.library import ModelLibrary
from shared.diffusion.model import Model
from shared.errors import IntegrityError, NotFoundError

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
def library(stocked_catalog: Catalog) -> ModelLibrary:
    return ModelLibrary(stocked_catalog, device="cpu", capacity=2)


def test_model_is_loaded_once_and_named_by_its_digest(library: ModelLibrary, stocked_home: StockedHome) -> None:
    model = library.get(stocked_home.model.id)
    assert model.key == stocked_home.model.digest
    assert model.image_size == stocked_home.dataset.image_size
    assert library.get(stocked_home.model.id) is model


def test_many_threads_that_ask_at_once_get_one_model(library: ModelLibrary, stocked_home: StockedHome) -> None:
    with mock.patch.object(Model, "load", wraps=Model.load) as load, ThreadPoolExecutor(4) as threads:
        models = list(threads.map(library.get, [stocked_home.model.id] * 8))
    assert load.call_count == 1
    assert {id(model) for model in models} == {id(models[0])}


def test_least_recently_used_model_is_given_up(
    library: ModelLibrary, stocked_home: StockedHome, stocked_catalog: Catalog, commit: Callable[[Path], str]
) -> None:
    folder = stocked_catalog.fetch(stocked_home.model)
    first, second, third = stocked_home.model.id, commit(folder), commit(folder)
    for model_id in (first, second, first, third):
        library.get(model_id)
    assert library.held == [first, third]


def test_unknown_model_is_named(library: ModelLibrary) -> None:
    with pytest.raises(NotFoundError, match="model 'mdl_1'"):
        library.get("mdl_1")


def test_damaged_weights_are_refused_and_nothing_is_held(library: ModelLibrary, stocked_home: StockedHome) -> None:
    path = stocked_home.folder / "store" / "models" / stocked_home.model.id / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        library.get(stocked_home.model.id)
    assert library.held == []


def test_committed_folder_that_is_no_model_is_not_the_callers_fault(
    library: ModelLibrary, commit: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "readme.txt").write_text("no model")
    with pytest.raises(IntegrityError, match=r"model_index\.json is missing"):
        library.get(commit(folder))


def test_stable_diffusion_folders_load_like_the_tiny_model(
    library: ModelLibrary, commit: Callable[[Path], str], stable_diffusion_folder: Path
) -> None:
    model = library.get(commit(stable_diffusion_folder))
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
