"""The Fréchet distance between two sets of features, each taken as a Gaussian: FID on whatever features are given (Heusel et al. 2017).

N, M cases, D features. Small where the sets are alike; two real sets of the same size tell how small it can get.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.memorization.statistics import Estimate, estimate_of, patient_weights

RESAMPLES: Final = 200  # each takes eigenvalues: a second for 128 features

Floats = NDArray[np.float64]


def frechet_distance(left_ND: Floats, right_MD: Floats) -> float:
    """‖μ₁−μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), covariances over n − 1.

    (Σ₁Σ₂)^½ has the trace of (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric: its eigenvalues are real, and fewer cases than features do no harm.
    """
    if left_ND.ndim != 2 or right_MD.ndim != 2 or left_ND.shape[1] != right_MD.shape[1] or min(len(left_ND), len(right_MD)) < 2:
        raise ValueError(f"two sets of at least two rows with the same features are needed, not {left_ND.shape} and {right_MD.shape}")
    left_DD, right_DD = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (left_ND, right_MD))
    root_DD = _root(left_DD)
    shared = np.sqrt(np.linalg.eigvalsh(root_DD @ right_DD @ root_DD).clip(min=0)).sum()
    moved = np.square(left_ND.mean(0) - right_MD.mean(0)).sum()
    return max(0.0, float(moved + np.trace(left_DD) + np.trace(right_DD) - 2 * shared))


def frechet_interval(left_ND: Floats, patients: Sequence[str], right_MD: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The distance with its bootstrap interval by patient of the left set; the right one stays what it is.

    Cases that are drawn twice make a set narrower and so every resample more distant: the resamples are moved to the value that they
    spread around.
    """
    value = frechet_distance(left_ND, right_MD)
    mean_D, right_DD = right_MD.mean(0), np.atleast_2d(np.cov(right_MD, rowvar=False))
    root_DD = _root(right_DD)
    values = []
    for weights_N in patient_weights(patients, np.random.default_rng(seed), resamples):
        centre_D = weights_N @ left_ND / weights_N.sum()
        spread_ND = left_ND - centre_D
        left_DD = (spread_ND.T * weights_N) @ spread_ND / (weights_N.sum() - 1)
        shared = np.sqrt(np.linalg.eigvalsh(root_DD @ left_DD @ root_DD).clip(min=0)).sum()
        values.append(np.square(centre_D - mean_D).sum() + np.trace(left_DD) + np.trace(right_DD) - 2 * shared)
    moved_R = np.asarray(values) - np.mean(values) + value
    return estimate_of(value, moved_R.clip(min=0), len(left_ND))


def _root(covariance_DD: Floats) -> Floats:
    """The symmetric square root; what rounding made negative counts as 0."""
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    root_DD: Floats = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
    return root_DD
