"""Writing in pictures: found where it is printed, and not seen in films without any."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from shared.imaging.burned_in import has_writing, is_examined
from shared.imaging.phantom import draw, make_cohort

FILMS = 60


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [draw(film, 128) for film in make_cohort(FILMS // 2, 1)[:FILMS]]


def printed(film: np.ndarray, text: str, *, height: int, ink: int) -> np.ndarray:
    picture = Image.fromarray(film)
    ImageDraw.Draw(picture).text((3, 3), text, fill=ink, font=ImageFont.load_default(height))
    return np.asarray(picture)


def test_phantom_films_have_no_writing(films: list[np.ndarray]) -> None:
    assert len(films) >= 50
    assert sum(map(has_writing, films)) == 0


@pytest.mark.parametrize(("height", "share"), [(8, 0.75), (10, 0.95), (12, 0.95)])
def test_printed_line_is_found_in_nearly_all_films(films: list[np.ndarray], height: int, share: float) -> None:
    found = sum(has_writing(printed(film, "DOE JOHN 12/03/61", height=height, ink=255)) for film in films)
    assert found >= share * len(films)


def test_dark_writing_on_bright_ground_is_found() -> None:
    assert has_writing(printed(np.full((200, 200), 230, np.uint8), "WARD 7 BED 3", height=14, ink=0))


def test_writing_on_a_large_film_is_found() -> None:
    assert has_writing(printed(np.full((1500, 1200), 40, np.uint8), "DOE JOHN 12/03/61", height=40, ink=255))


def test_lone_marker_and_devices_are_no_writing() -> None:
    film = np.full((256, 256), 60, np.uint8)
    assert not has_writing(printed(film, "L", height=20, ink=255))
    picture = Image.fromarray(film)
    lines = ImageDraw.Draw(picture)
    lines.line([(20, 20), (200, 240)], fill=255, width=3)
    lines.rectangle([100, 100, 140, 116], fill=255)
    assert not has_writing(np.asarray(picture))


def test_small_pictures_are_not_examined() -> None:
    assert not is_examined(64)
    assert is_examined(128)
    assert not has_writing(printed(np.full((120, 120), 40, np.uint8), "DOE JOHN", height=12, ink=255))
