"""Sources of films that a test makes up, with pictures on disk if it asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.imaging.clauses import LABELS
from shared.imaging.sources import SourceFilm


def film(number: int, **changed: Any) -> SourceFilm:
    return SourceFilm(
        **{
            "line": number + 2,
            "key": f"train/{number}.jpg",
            "path": Path(f"/data/train/{number}.jpg"),
            "patient": f"p{number // 2}",
            "study": "s1",
            "view": "AP",
            "sex": "Female",
            "age": 50 + number,
            "labels": dict.fromkeys(LABELS) | {"Edema": 1, "Pneumonia": -1},
            **changed,
        }
    )


class Films:
    """A source in memory."""

    def __init__(self, *films: SourceFilm | Exception) -> None:
        self.given = films

    def films(self) -> Iterator[SourceFilm]:
        """One after another; exceptions where they stand."""
        for film in self.given:
            if isinstance(film, Exception):
                raise film
            yield film

    def fingerprint(self) -> str:
        """Of nothing."""
        return "0" * 64


def with_picture(film: SourceFilm, folder: Path, picture: np.ndarray) -> SourceFilm:
    """The film with its picture in a folder."""
    path = folder / f"{film.line}.png"
    Image.fromarray(picture).save(path)
    return replace(film, path=path)


def noise(seed: int, side: int = 32) -> np.ndarray:
    """A picture like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
