"""The default registration of a phantom is what it was in version 0.1: prompts, splits, canaries, and pictures as they are decoded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.registration import register
from services.trainer.source_opening import open_source
from shared.catalog import Catalog, new_id
from shared.imaging.films import FilmTable
from shared.imaging.pixels import read_picture
from shared.imaging.png import encode_png
from shared.settings import Settings
from shared.storage import DirectoryStore

PHANTOM: dict[str, Any] = {
    "name": "phantom",
    "source": {"format": "phantom", "patients": 30},
    "image_size": 16,
    "prompt": {"template": "impression"},
    "control_fraction": 0.2,
    "canaries": {"count": 4, "repeats": 40},
}


def ignore(*_told: object, **_values: float) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        ({}, "d18a32cb69c30b432721bcb58d1529e6aba4bd0e54c24366528dec0265bb561e"),
        (
            {"prompt": {"template": "demographics"}, "views": ["frontal", "lateral"], "seed": 3},
            "c1ab220768cff67dd68d2100272fd47f7e74018b5bd42981eacecd30f6c4ae88",
        ),
    ],
    ids=["impressions", "demographics"],
)
def test_phantom_is_registered_as_in_version_0_1(tmp_path: Path, change: dict[str, Any], recorded: str) -> None:
    catalog, settings = Catalog(DirectoryStore(tmp_path / "store"), tmp_path / "cache"), Settings(home=tmp_path)
    spec = DatasetSpec.model_validate(PHANTOM | change)
    manifest = register(spec, dataset_id=new_id("dataset"), catalog=catalog, settings=settings, report=ignore)
    films = list(FilmTable(catalog.fetch(manifest)))
    facts = [{name: value for name, value in asdict(film).items() if name not in {"sha256", "png"}} for film in films]
    assert hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest() == recorded
    pictures = [encode_png(read_picture(film, spec.image_size)) for film in open_source(spec, settings, ignore).films()]
    assert [film.png for film in films] == pictures
    assert [film.sha256 for film in films] == [hashlib.sha256(png).hexdigest() for png in pictures]
