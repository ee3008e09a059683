"""Leaves one film of each picture and patient to learn from, each shown once an epoch, and says what was dropped.

Films that show the same picture are found as the gates of a data set find them. Shape suffixes: N films, M pairs, D films of
distinct pixels, C clusters' films of one patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from services.trainer.deduplication_rules import Deduplication
from services.trainer.training_set import TrainingSet
from shared.imaging.duplicates import find_alike, thumbnail

DROPPED_NAME: Final = "dropped.parquet"
REASONS: Final = ("duplicates", "near_duplicates", "beyond_cap", "repeats")
_DIGEST_BYTES: Final = 16
_FILMS_AT_ONCE: Final = 1024  # whose thumbnails are in memory together

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Dropped:
    """What is not learnt from: films, or the repeats of one that stays; by number in the data set."""

    table: pa.Table  # record, reason, kept (the film that is in its place, if one is), visits (an epoch that are dropped)
    clusters_across_patients: int  # the same picture under several patients' names: an error of labels or names, for a human
    films_across_patients: int

    def totals(self) -> dict[str, Any]:
        """The counts that go into a model's metrics: films by reason, and of repeats the visits."""
        reasons, visits = np.array(self.table.column("reason").to_pylist()), self.table.column("visits").to_numpy()
        counts = {f"dropped_{reason}": int((reasons == reason).sum()) for reason in REASONS}
        counts["dropped_repeats"] = int(visits[reasons == "repeats"].sum())
        return counts | {"clusters_across_patients": self.clusters_across_patients, "films_across_patients": self.films_across_patients}

    def write(self, folder: Path) -> None:
        """The list as Parquet, in the data set's order; it holds no patient and no prompt."""
        pq.write_table(self.table, folder / DROPPED_NAME)


def deduplicate(films: TrainingSet, rule: Deduplication) -> tuple[TrainingSet, Dropped]:
    """What is left to learn from, in the same order, and what is dropped; of films that are alike the first one stays."""
    first_same_N, cluster_N = _clusters(films)
    first_N = _firsts(cluster_N, films.patients)
    stays_N = first_N == np.arange(len(films.prompts))
    clusters, sharing = _across_patients(cluster_N[stays_N])
    same_pixels_N = first_same_N == first_same_N[first_N]

    beyond_N = _beyond(films.patients, stays_N, rule.films_per_patient)
    stays_N &= ~beyond_N
    repeated_N = stays_N & (films.repeats > 1)
    reason_N = np.select([repeated_N, beyond_N, same_pixels_N], [3, 2, 0], 1)
    listed = np.flatnonzero(~stays_N | repeated_N)
    table = pa.table(
        {
            "record": films.records[listed],
            "reason": np.array(REASONS)[reason_N[listed]].tolist(),
            "kept": pa.array(films.records[first_N[listed]], mask=~stays_N[first_N[listed]]),
            "visits": films.repeats[listed] - repeated_N[listed],
        }
    )
    left = films if stays_N.all() else films.subset(np.flatnonzero(stays_N))
    return replace(left, repeats=np.minimum(left.repeats, 1)), Dropped(table, clusters, sharing)


def _clusters(films: TrainingSet) -> tuple[Rows, NDArray[np.int32]]:
    """For every film the first with its pixels, and the code of the films that show its picture, at one remove or more."""
    count = len(films.prompts)
    digests = np.array([hashlib.blake2b(film.tobytes(), digest_size=_DIGEST_BYTES).digest() for film in films.images_NHW])
    _, firsts_D, which_N = np.unique(digests, return_index=True, return_inverse=True)
    first_same_N = firsts_D[which_N]

    def thumbnails(positions: Rows) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(positions), _FILMS_AT_ONCE):
            yield np.stack([thumbnail(films.images_NHW[row]).ravel() for row in positions[start : start + _FILMS_AT_ONCE]])

    earlier_M, later_M = find_alike(thumbnails, np.sort(firsts_D))
    left, right = np.concatenate([first_same_N, earlier_M]), np.concatenate([np.arange(count), later_M])
    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    clusters: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return first_same_N, clusters


def _firsts(cluster_N: NDArray[np.int32], patient_N: Rows) -> Rows:
    """For every film the first one of its cluster and patient."""
    both_N = cluster_N.astype(np.int64) * (int(patient_N.max()) + 1) + patient_N
    _, firsts_C, which_N = np.unique(both_N, return_index=True, return_inverse=True)
    firsts: Rows = firsts_C[which_N]
    return firsts


def _across_patients(clusters: NDArray[np.int32]) -> tuple[int, int]:
    """How many clusters are of several patients, and with how many films that stay: one of each patient."""
    counts = np.bincount(clusters)
    return int((counts > 1).sum()), int(counts[counts > 1].sum())


def _beyond(patient_N: Rows, stays_N: NDArray[np.bool_], limit: int | None) -> NDArray[np.bool_]:
    """Which films stay so far and are beyond the limit of their patient, in the data set's order."""
    beyond_N = np.zeros(len(patient_N), dtype=np.bool_)
    if limit is not None:
        rows = np.flatnonzero(stays_N)
        order = rows[np.argsort(patient_N[rows], kind="stable")]
        _, starts, which = np.unique(patient_N[order], return_index=True, return_inverse=True)
        beyond_N[order[np.arange(len(order)) - starts[which] >= limit]] = True
    return beyond_N
