"""Extraction (Carlini et al., USENIX Security 2023): what a prompt draws again and again, all but alike, is tried as a training film.

An edge joins two images whose tile distance is below a limit, and a prompt gives something up where its images hold a clique: a
connected component will not do, for a chain of slightly different images joins what is not alike. M images, N films.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.memorization.statistics import threshold_rank
from shared.memorization.tile_distance import tile_max_distance

BLOCK_BYTES: Final = 64 * 2**20  # distances or pixels held at a time
_FLOAT_BYTES: Final = 8
EDGE_RATE: Final = 1e-4  # share of pairs of different patients' real films that may be nearer than the limit

Images = NDArray[np.uint8]


def edge_limit(strangers_MHW: Images, films_NHW: Images, *, block_bytes: int = BLOCK_BYTES) -> float:
    """The tile distance below which two images are one: of real films of different patients hardly a pair is.

    As `upper_threshold` sets it on closeness; of all pairs the nearest are kept alone.
    """
    strangers = torch.from_numpy(strangers_MHW)
    rank = threshold_rank(len(strangers) * len(films_NHW), EDGE_RATE)
    nearest = torch.empty(0)
    for block in _blocks(strangers_MHW, films_NHW, block_bytes):
        nearest = torch.cat([nearest, tile_max_distance(strangers, torch.from_numpy(films_NHW[block])).flatten()])
        nearest = nearest.topk(min(rank, len(nearest)), largest=False).values
    return math.nextafter(float(nearest.max()), -math.inf)


def extracted_films(drawn: Sequence[Images], films_NHW: Images, *, limit: float, size: int) -> set[int]:
    """The training films that the prompts gave up: each prompt's images M×H×W, by a clique of at least `size` that meets a film.

    Films are counted and not prompts: two prompts may give up the same one, and a prompt gives up one, the nearest.
    """
    nearest, film = nearest_films(np.concatenate(list(drawn)), films_NHW)
    found, first = set(), 0
    for images_MHW in drawn:
        of_prompt = slice(first, first + len(images_MHW))
        first = of_prompt.stop
        images, nearest_M, film_M = torch.from_numpy(images_MHW), nearest[of_prompt], film[of_prompt]
        near_MM = tile_max_distance(images, images).numpy() <= limit
        meeting = (image for image in nearest_M.argsort(stable=True).tolist() if nearest_M[image] <= limit)
        extracted = next((image for image in meeting if _is_in_clique(near_MM, image, size)), None)
        if extracted is not None:
            found.add(int(film_M[extracted]))
    return found


def nearest_films(images_MHW: Images, films_NHW: Images, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """Each image's tile distance to its nearest film, and which film that is, M each; films are read once, some at a time."""
    images = torch.from_numpy(images_MHW)
    nearest_M, film_M = torch.full((len(images),), torch.inf), torch.zeros(len(images), dtype=torch.int64)
    for block in _blocks(images_MHW, films_NHW, block_bytes):
        distance_M, place_M = tile_max_distance(images, torch.from_numpy(films_NHW[block])).min(1)
        film_M = torch.where(distance_M < nearest_M, block.start + place_M, film_M)
        nearest_M = torch.minimum(nearest_M, distance_M)
    return nearest_M, film_M


def _blocks(images_MHW: Images, films_NHW: Images, block_bytes: int) -> Iterator[slice]:
    """Where films stand of which so many distances or pixels can be held at a time."""
    rows = max(1, block_bytes // (_FLOAT_BYTES * max(len(images_MHW), films_NHW[0].size)))
    return (slice(start, start + rows) for start in range(0, len(films_NHW), rows))


def _is_in_clique(near_MM: NDArray[np.bool_], node: int, size: int) -> bool:
    """Whether a clique of at least `size` holds the node: its neighbours then hold one that is smaller by the node."""
    neighbours = np.flatnonzero(near_MM[node])
    neighbours = neighbours[neighbours != node]
    return size <= 1 or bool(find_clique(near_MM[np.ix_(neighbours, neighbours)], size - 1))


def find_clique(near_MM: NDArray[np.bool_], size: int) -> list[int]:
    """A clique of at least `size` nodes, empty where there is none; nobody is their own neighbour.

    Bron-Kerbosch with a pivot (Tomita et al. 2006) on the nodes that have neighbours enough; ends at the first that is large enough.
    """
    neighbours = [set(np.flatnonzero(row).tolist()) - {node} for node, row in enumerate(near_MM)]
    nodes = _core(neighbours, size - 1)

    def grown(clique: list[int], candidates: set[int]) -> list[int]:
        if len(clique) >= size:
            return clique
        if len(clique) + len(candidates) < size:
            return []
        # A clique without the pivot and without any other non-neighbour of it could have taken the pivot too.
        pivot = max(sorted(candidates), key=lambda node: len(neighbours[node] & candidates))
        for node in sorted(candidates - neighbours[pivot]):
            found = grown([*clique, node], candidates & neighbours[node])
            if found:
                return found
            candidates = candidates - {node}
        return []

    return grown([], nodes)


def _core(neighbours: Sequence[set[int]], degree: int) -> set[int]:
    """The nodes that are left when those with fewer neighbours among the left are taken away, again and again."""
    left = set(range(len(neighbours)))
    while poor := {node for node in left if len(neighbours[node] & left) < degree}:
        left -= poor
    return left
