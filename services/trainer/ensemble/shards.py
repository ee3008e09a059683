"""Which shard of an ensemble learns from which film. N films, P patients, K shards, S strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidRequestError

_STREAM = 5  # parts the order in which patients are dealt from a training's other random numbers


def deal_shards(patients_N: NDArray[np.int64], strata: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """The shard of every film: all films of a patient in one, each stratum spread evenly, sizes in films as even as patients allow.

    Patients are dealt one by one, those of many films first. Each goes where there is the least, in proportion, of its strata and of
    films; but no shard grows beyond the largest unless it is the smallest, so that sizes differ by one patient's films at most.
    """
    patients = np.unique(patients_N)
    if count > len(patients):
        message = f"{count} shards need as many patients, and the training set has {len(patients)}: no patient is in two shards."
        raise InvalidRequestError(message, field="ensemble.shards")
    labels, strata_N = np.unique(np.asarray(strata), return_inverse=True)
    share_S = 1 / np.bincount(strata_N)
    films_KS = np.zeros((count, len(labels)))
    sizes_K = np.zeros(count)
    shards_N = np.empty(len(patients_N), dtype=np.int64)
    for rows, own in _in_dealing_order(patients_N, strata_N, np.random.default_rng([seed, _STREAM])):
        which, films = np.unique(own, return_counts=True)
        cost_K = films_KS[:, which] @ (films * share_S[which]) + len(own) * sizes_K / len(patients_N)
        allowed_K = sizes_K + len(own) <= max(sizes_K.max(), sizes_K.min() + len(own))
        chosen = int(np.where(allowed_K, cost_K, np.inf).argmin())
        films_KS[chosen, which] += films
        sizes_K[chosen] += len(own)
        shards_N[rows] = chosen
    return shards_N


def _in_dealing_order(
    patients_N: NDArray[np.int64], strata_N: NDArray[np.int64], generator: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each patient's films and their strata: most films first, then by the commonest stratum, otherwise at random."""
    by_patient = np.argsort(patients_N, kind="stable")
    ends = np.flatnonzero(np.diff(patients_N[by_patient])) + 1
    rows_P = np.split(by_patient, ends)
    main_P = np.array([np.bincount(strata_N[rows]).argmax() for rows in rows_P])
    fewest_P = np.array([-len(rows) for rows in rows_P])
    for place in np.lexsort((generator.permutation(len(rows_P)), main_P, fewest_P)):
        yield rows_P[place], strata_N[rows_P[place]]
