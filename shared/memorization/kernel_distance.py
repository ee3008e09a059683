"""The kernel distance between two sets of features: the unbiased squared MMD of KID (Bińkowski et al. 2018), for few cases.

N, M cases, D features, R resamples. It may fall below 0: where two sets are of one kind its mean is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.memorization.statistics import RESAMPLES, Estimate, estimate_of, patient_weights

Floats = NDArray[np.float64]


def kernel_distance(left_ND: Floats, right_MD: Floats) -> float:
    """Mean k(x, x′) of different cases, plus mean k(y, y′), minus twice mean k(x, y); k is (x·y/D + 1)³."""
    return float(_distances(left_ND, right_MD, np.ones((1, len(left_ND))))[0])


def kernel_interval(left_ND: Floats, patients: Sequence[str], right_MD: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The distance with its percentile bootstrap interval by patient of the left set; the right one stays what it is."""
    weights_RN = patient_weights(patients, np.random.default_rng(seed), resamples)
    values_R = _distances(left_ND, right_MD, weights_RN[(weights_RN > 0).sum(1) > 1])  # one case alone has no other
    return estimate_of(kernel_distance(left_ND, right_MD), values_R, len(left_ND))


def _distances(left_ND: Floats, right_MD: Floats, weights_RN: Floats) -> Floats:
    """The distance with the left cases counted as often as each row says; a case is never paired with itself."""
    if left_ND.ndim != 2 or right_MD.ndim != 2 or left_ND.shape[1] != right_MD.shape[1] or min(len(left_ND), len(right_MD)) < 2:
        raise ValueError(f"two sets of at least two rows with the same features are needed, not {left_ND.shape} and {right_MD.shape}")
    left_NN, right_MM, between_NM = _kernel(left_ND, left_ND), _kernel(right_MD, right_MD), _kernel(left_ND, right_MD)
    total_R = weights_RN.sum(1)
    within_R = ((weights_RN @ left_NN) * weights_RN).sum(1) - np.square(weights_RN) @ np.diag(left_NN)
    left_R = within_R / (np.square(total_R) - np.square(weights_RN).sum(1))
    count = len(right_MD)
    right = (right_MM.sum() - np.trace(right_MM)) / (count * (count - 1))
    return np.asarray(left_R + right - 2 * (weights_RN @ between_NM.mean(1)) / total_R)


def _kernel(left_ND: Floats, right_MD: Floats) -> Floats:
    kernel_NM: Floats = (left_ND @ right_MD.T / left_ND.shape[1] + 1) ** 3
    return kernel_NM
