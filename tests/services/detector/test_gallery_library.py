"""The galleries in memory: loaded once, verified when read, and their lack told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.detector.gallery_library import GalleryLibrary
from shared.catalog import Catalog, new_id
from shared.errors import ConflictError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from tests.fixtures.judging import JudgingHome
    from tests.fixtures.models import StockedHome


def test_library_loads_a_gallery_once(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    library = GalleryLibrary(judging_catalog)
    first = library.get(judging_home.stocked.dataset.id)
    assert library.get(judging_home.stocked.dataset.id) is first


def test_library_without_gallery_says_how_to_build_one(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    with pytest.raises(ConflictError, match="POST /v1/galleries"):
        GalleryLibrary(stocked_catalog).get(stocked_home.dataset.id)
    with pytest.raises(NotFoundError, match="dataset"):
        GalleryLibrary(stocked_catalog).get(new_id("dataset"))


def test_corrupted_codes_are_refused(judging_home: JudgingHome, judging_catalog: Catalog) -> None:
    codes = judging_home.stocked.folder / "store" / "galleries" / judging_home.gallery.id / "codes.safetensors"
    codes.chmod(0o644)
    codes.write_bytes(codes.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(IntegrityError, match="codes"):
        GalleryLibrary(judging_catalog).get(judging_home.stocked.dataset.id)
