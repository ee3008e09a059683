"""The pictures of a registration on disk, decoded in parallel and kept part by part, and what is found in them.

Shape suffixes: N films, H height, W width, P pixels of a thumbnail, S bytes of a digest.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.trainer.film_rows import FilmRows, films_of
from services.trainer.spool import SpoolWriter, find_spooled
from shared.errors import DatasetError
from shared.imaging.burned_in import has_writing
from shared.imaging.duplicates import THUMBNAIL_PIXELS, Pairs, find_alike, thumbnail
from shared.imaging.in_order import map_in_order
from shared.imaging.pixels import DECODING_THREADS, read_picture
from shared.imaging.png import encode_png
from shared.imaging.sources import RowProblems, SourceFilm

ROWS_PER_SPOOL: Final = 1024  # what a killed registration decodes again, of films up to 256 pixels
FILMS_AT_ONCE: Final = 64  # of a part that wait in memory
_DIGEST_BYTES: Final = 32

PICTURES: Final = pa.schema(
    [
        pa.field("png", pa.binary(), nullable=False),
        pa.field("sha256", pa.binary(_DIGEST_BYTES), nullable=False),
        pa.field("thumbnail", pa.binary(THUMBNAIL_PIXELS), nullable=False),
        pa.field("writing", pa.bool_(), nullable=False),
    ]
)

OnPicture = Callable[[int, float], None]
"""Told how many films are decoded, and how many a second since this attempt began."""


def rows_per_spool(image_size: int) -> int:
    """How many films of this size are kept at once."""
    return max(FILMS_AT_ONCE, min(ROWS_PER_SPOOL, ROWS_PER_SPOOL * 256 * 256 // image_size**2))


@dataclass(frozen=True)
class PictureColumns:
    """What was found in every picture."""

    sha256_NS: NDArray[np.uint8]
    writing: NDArray[np.bool_]


class FilmPictures:
    """The pictures of the rows that were admitted, in their order; one part for each group of rows."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = parts
        self._counts = [int(pq.read_metadata(part).num_rows) for part in parts]
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])

    def part(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """One part."""
        return pq.read_table(self._parts[number], columns=columns)

    def columns(self) -> PictureColumns:
        """What is decided on: some forty bytes a film."""
        digests, writing = [], []
        for number in range(len(self._parts)):
            table = self.part(number, ["sha256", "writing"])
            digests.append(_bytes_of(table, "sha256", _DIGEST_BYTES))
            writing.append(table.column("writing").to_numpy())
        return PictureColumns(np.concatenate(digests), np.concatenate(writing))

    def alike(self, wanted: NDArray[np.int64]) -> Pairs:
        """Pairs among the wanted pictures (positions, in order) that look alike: near by hash, and confirmed by similarity."""
        return find_alike(self._thumbnails, wanted)

    def _thumbnails(self, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The thumbnails of ascending positions, a part at a time."""
        bounds = np.searchsorted(positions, self._starts)
        for number, (low, high) in enumerate(itertools.pairwise(bounds)):
            if high > low:
                inside = positions[low:high] - self._starts[number]
                yield _bytes_of(self.part(number, ["thumbnail"]), "thumbnail", THUMBNAIL_PIXELS)[inside]


def spool_pictures(rows: FilmRows, admitted: NDArray[np.bool_], image_size: int, folder: Path, on_picture: OnPicture) -> FilmPictures:
    """Decode the admitted films; parts that an earlier attempt finished are verified and kept, the first missing one is gone on with."""
    problems = RowProblems()
    parts: list[Path] = []
    done = decoded = start = 0
    began = time.monotonic()
    for number, size in enumerate(rows.sizes()):
        name, unsound = f"pictures-{number:06}", len(problems)
        wanted = admitted[start : start + size]
        start += size
        part = find_spooled(folder, name)
        if part is not None:
            parts.append(part)
            done += int(wanted.sum())
            continue
        writer = SpoolWriter(folder, name, PICTURES)
        try:
            for pictures in _decoded(rows, number, wanted, image_size, problems):
                writer.write(pictures)
                done += len(pictures)
                decoded += len(pictures)
                on_picture(done, decoded / max(time.monotonic() - began, 1e-9))
            if len(problems) == unsound:  # or another attempt would take the part for whole
                parts.append(writer.keep())
        finally:
            writer.close()
    problems.check()
    return FilmPictures(parts)


def _decoded(rows: FilmRows, number: int, wanted: NDArray[np.bool_], image_size: int, problems: RowProblems) -> Iterator[pa.Table]:
    """The pictures of one group, some at a time."""
    films = films_of(rows.group(number).filter(pa.array(wanted)))

    def decode(film: SourceFilm) -> dict[str, object] | DatasetError:
        """One film, or why it cannot be used."""
        try:
            return _picture(film, image_size)
        except DatasetError as error:
            return error

    waiting: list[dict[str, object]] = []
    for picture in map_in_order(decode, films, threads=DECODING_THREADS):
        if isinstance(picture, DatasetError):
            problems.add(str(picture), field=picture.field)
            continue
        waiting.append(picture)
        if len(waiting) == FILMS_AT_ONCE:
            yield pa.Table.from_pylist(waiting, schema=PICTURES)
            waiting = []
    if waiting:
        yield pa.Table.from_pylist(waiting, schema=PICTURES)


def _picture(film: SourceFilm, image_size: int) -> dict[str, object]:
    picture_HW = read_picture(film, image_size)
    png = encode_png(picture_HW)
    return {
        "png": png,
        "sha256": hashlib.sha256(png).digest(),
        "thumbnail": thumbnail(picture_HW).tobytes(),
        "writing": has_writing(picture_HW),
    }


def _bytes_of(table: pa.Table, name: str, width: int) -> NDArray[np.uint8]:
    """A column of fixed width as rows of bytes."""
    return np.frombuffer(b"".join(table.column(name).to_pylist()), dtype=np.uint8).reshape(-1, width)
