"""Which films of a set show the same picture: thumbnails, a perceptual hash found by multi-index hashing, and a similarity that confirms.

Radiographs are all alike, so both look at what a film has beside the set's own average: the hash (a difference hash, 256 bits) asks
whether brightness rises more than in the middle film of the set, the similarity compares whitened principal components of thumbnails
(eigenfaces, Turk and Pentland 1991). Sub-quadratic search after Norouzi et al. (CVPR 2012): of hashes within the radius, one of twelve
pieces differs in one bit at most.

Shape suffixes: N films, M pairs, H height, W width, B bytes of a hash, P pixels of a thumbnail, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SHAPE: Final = (32, 34)
THUMBNAIL_PIXELS: Final = THUMBNAIL_SHAPE[0] * THUMBNAIL_SHAPE[1]
HASH_SHAPE: Final = (16, 17)  # of means; 16 × 16 differences between neighbours make 256 bits
HASH_BITS: Final = 256
PIECES: Final = 12
RADIUS: Final = 2 * PIECES - 1  # bits: twelve pieces with two bits wrong each would be one more
SIMILARITY: Final = 0.9  # on 1,173 phantom films no two reach 0.83; re-encoded, toned and slightly cropped copies stay above 0.94
COMPONENTS: Final = 64
FIT_FILMS: Final = 2048  # that an average is made from
FEW_FILMS: Final = 64  # fewer have no average to speak of, and are compared as they are
FEW_SIMILARITY: Final = 0.985  # of thumbnails as they are; no two phantom films reach 0.971
PAIRS_AT_ONCE: Final = 1 << 20
PAIRS_CONFIRMED_AT_ONCE: Final = 4096

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Positions of the earlier and of the later film of each pair."""

Thumbnails = Callable[[NDArray[np.int64]], Iterator[NDArray[np.uint8]]]
"""Yields the thumbnails of films at ascending positions, some at a time."""


def thumbnail(image_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as 32 × 34 means: twice as fine as what is hashed."""
    height, width = THUMBNAIL_SHAPE
    return np.asarray(Image.fromarray(image_HW).resize((width, height), Image.Resampling.BOX))


@dataclass(frozen=True)
class Likeness:
    """How films of one set are compared; made by `fit_likeness`."""

    rises_D: NDArray[np.float32]
    mean_P: NDArray[np.float32]
    projection_PC: NDArray[np.float32] | None
    alike: float

    def hashes(self, thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """256 bits a film, as N×32 bytes."""
        return np.packbits(_rises(thumbnails_NP) > self.rises_D, axis=1)

    def similarities(self, left_MP: NDArray[np.uint8], right_MP: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cosine between the codes of each pair; films are alike from `alike` on."""
        similarities: NDArray[np.float32] = np.einsum("mc,mc->m", self._codes(left_MP), self._codes(right_MP))
        return similarities

    def _codes(self, thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
        codes: NDArray[np.float32] = _toneless(thumbnails_NP) - self.mean_P
        if self.projection_PC is not None:
            codes = codes @ self.projection_PC
        return _unit(codes)


def fit_likeness(sample_NP: NDArray[np.uint8]) -> Likeness:
    """The average of a sample of the set, and the directions in which its films differ."""
    if len(sample_NP) < FEW_FILMS:
        return Likeness(np.zeros(HASH_BITS, np.float32), np.zeros(THUMBNAIL_PIXELS, np.float32), None, FEW_SIMILARITY)
    codes = _toneless(sample_NP)
    mean_P = codes.mean(0)
    variances, directions = np.linalg.eigh(np.cov(codes - mean_P, rowvar=False))
    kept = slice(-min(COMPONENTS, len(sample_NP) // 4), None)
    floor = variances[-1] * 1e-4  # what hardly varies in the sample is noise, and must not be blown up
    projection_PC = directions[:, kept] / np.sqrt(np.maximum(variances[kept], max(floor, 1e-12)))
    return Likeness(np.median(_rises(sample_NP), axis=0), mean_P, projection_PC.astype(np.float32), SIMILARITY)


def find_alike(thumbnails: Thumbnails, wanted: NDArray[np.int64]) -> Pairs:
    """Pairs among the wanted films (positions, in order) that look alike: near by hash, and confirmed by similarity."""
    spread = np.unique(np.linspace(0, len(wanted) - 1, min(FIT_FILMS, len(wanted))).astype(np.int64))
    likeness = fit_likeness(np.concatenate(list(thumbnails(wanted[spread]))))
    hashes = np.concatenate([likeness.hashes(some) for some in thumbnails(wanted)])
    earlier, later = (wanted[place] for place in close_pairs(hashes))
    confirmed = _confirmed(likeness, thumbnails, earlier, later)
    return earlier[confirmed], later[confirmed]


def _confirmed(likeness: Likeness, thumbnails: Thumbnails, earlier: NDArray[np.int64], later: NDArray[np.int64]) -> NDArray[np.bool_]:
    alike = [np.empty(0, dtype=np.bool_)]
    for start in range(0, len(earlier), PAIRS_CONFIRMED_AT_ONCE):
        left, right = (side[start : start + PAIRS_CONFIRMED_AT_ONCE] for side in (earlier, later))
        involved, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        seen = np.concatenate(list(thumbnails(involved)))
        alike.append(likeness.similarities(seen[places[: len(left)]], seen[places[len(left) :]]) >= likeness.alike)
    return np.concatenate(alike)


def close_pairs(hashes_NB: NDArray[np.uint8]) -> Pairs:
    """All pairs of different hashes within the radius, and of equal hashes each with the first that has it; sorted by the later film."""
    count = len(hashes_NB)
    whole = np.ascontiguousarray(hashes_NB).view(f"V{hashes_NB.shape[1]}").ravel()
    _, firsts, inverse = np.unique(whole, return_index=True, return_inverse=True)
    first_with_same = firsts[inverse]
    repeats = np.flatnonzero(first_with_same < np.arange(count))
    pairs = [np.stack([first_with_same[repeats], repeats])]
    for left, right in _within_radius(hashes_NB[firsts]):
        pairs.append(np.stack([firsts[left], firsts[right]]))
    earlier, later = np.sort(np.concatenate(pairs, axis=1), axis=0)
    later, earlier = np.divmod(np.unique(later * count + earlier), count)
    return earlier, later


# ---------------------------------------------------------------- what is compared


def _means(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows, columns = HASH_SHAPE
    means: NDArray[np.float32] = thumbnails_NP.reshape(-1, rows, 2, columns, 2).mean((2, 4), dtype=np.float32)
    return means


def _rises(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By how much brightness rises from each place to its right neighbour."""
    return np.diff(_means(thumbnails_NP), axis=2).reshape(len(thumbnails_NP), HASH_BITS)


def _toneless(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails without their brightness and contrast."""
    values = thumbnails_NP.astype(np.float32)
    return _unit(values - values.mean(1, keepdims=True))


def _unit(values_NP: NDArray[np.float32]) -> NDArray[np.float32]:
    units: NDArray[np.float32] = values_NP / np.maximum(np.linalg.norm(values_NP, axis=1, keepdims=True), 1e-6)
    return units


# ---------------------------------------------------------------- multi-index hashing


def _within_radius(hashes_NB: NDArray[np.uint8]) -> Iterator[Pairs]:
    """Pairs of distinct hashes within the radius; a pair may come more than once."""
    scattered = np.random.default_rng(0).permutation(HASH_BITS)  # neighbouring bits say much the same: apart, pieces tell more films apart
    for bits in np.array_split(scattered, PIECES):
        keys = _piece(hashes_NB, bits)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for start, end, query in _candidates(ordered, len(bits)):
            for left, right in _expanded(start, end, query):
                pair = order[left], order[right]
                near = np.bitwise_count(hashes_NB[pair[0]] ^ hashes_NB[pair[1]]).sum(1) <= RADIUS
                yield pair[0][near], pair[1][near]


def _piece(hashes_NB: NDArray[np.uint8], bits: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The chosen bits of every hash as one number."""
    keys = np.zeros(len(hashes_NB), np.uint32)
    for place, bit in enumerate(bits):
        keys |= ((hashes_NB[:, bit >> 3] >> (7 - (bit & 7))) & 1).astype(np.uint32) << np.uint32(place)
    return keys


def _candidates(ordered: NDArray[np.uint32], bits: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Ranges of sorted keys that equal a key further up, or differ from it in one bit: starts, ends, and who asks."""
    everyone = np.arange(len(ordered))
    yield everyone + 1, np.searchsorted(ordered, ordered, "right"), everyone
    for bit in range(bits):
        flag = np.uint32(1 << bit)
        asking = np.flatnonzero((ordered & flag) == 0)
        wanted = ordered[asking] | flag
        yield np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right"), asking


def _expanded(start: NDArray[np.int64], end: NDArray[np.int64], query: NDArray[np.int64]) -> Iterator[Pairs]:
    """Ranges as pairs of positions, so many at once that memory stays flat."""
    found = end > start
    start, query, sizes = start[found], query[found], (end - start)[found]
    totals = np.cumsum(sizes)
    low = 0
    while low < len(sizes):
        done = totals[low - 1] if low else 0
        high = max(int(np.searchsorted(totals, done + PAIRS_AT_ONCE, "right")), low + 1)
        widths = sizes[low:high]
        offsets = np.arange(int(widths.sum())) - np.repeat(np.cumsum(widths) - widths, widths)
        yield np.repeat(query[low:high], widths), np.repeat(start[low:high], widths) + offsets
        low = high
