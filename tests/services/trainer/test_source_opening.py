"""Which folders are read, and that every format finds its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.source_opening import open_source, source_folder
from shared.errors import ForbiddenError, InvalidRequestError
from shared.settings import Settings

PHANTOM: dict[str, Any] = {"name": "phantom", "source": {"format": "phantom", "patients": 4}, "image_size": 16}


class House:
    """A home with an import root."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "imports"
        self.data.mkdir()
        self.settings = Settings(home=home, import_roots=str(self.data))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def spec_of(source: dict[str, Any], **changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(PHANTOM | {"source": source} | changes)


def test_phantom_is_drawn_and_read_with_its_reports(house: House) -> None:
    drawn = []
    source = open_source(
        DatasetSpec.model_validate(PHANTOM), house.settings, lambda step, total, message: drawn.append((step, total, message))
    )
    films = list(source.films())
    assert {film.patient for film in films} < {f"patient{n:05}" for n in range(1, 5)}, "one has no frontal film"
    assert all(film.impression for film in films)
    assert drawn[-1] == (drawn[-1][1], drawn[-1][1], "drawing films")


@pytest.mark.parametrize(
    "uri", ["file:///etc", "file://{data}/../secret", "file://{data}/link", "file://{data}%2F..%2Fsecret", "file://{data}x"]
)
def test_folder_outside_the_import_roots_is_forbidden(house: House, uri: str) -> None:
    (house.home / "secret").mkdir()
    (house.data / "link").symlink_to(house.home / "secret")
    for source in ({"format": "chexpert"}, {"format": "phantom"}):
        spec = PHANTOM | {"source": source | {"uri": uri.format(data=house.data)}}
        with pytest.raises(ForbiddenError, match="LETHE_IMPORT_ROOTS"):
            source_folder(DatasetSpec.model_validate(spec), house.settings)


def test_no_import_root_allows_no_folder(house: House) -> None:
    spec = spec_of({"format": "chexpert", "uri": f"file://{house.data}"})
    with pytest.raises(ForbiddenError):
        source_folder(spec, Settings(home=house.home))


@pytest.mark.parametrize("uri", ["/data", "s3://bucket/x", "file://host/data", "file:data", "file:///a%00b", "http://localhost/data"])
def test_other_uri_is_refused(house: House, uri: str) -> None:
    spec = DatasetSpec.model_validate(PHANTOM | {"source": {"format": "chexpert", "uri": uri}})
    with pytest.raises(InvalidRequestError, match=r"source\.uri must be file://"):
        source_folder(spec, house.settings)
