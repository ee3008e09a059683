"""Four soft pictures with prompts, for tests of what is learnt from them."""

from __future__ import annotations

import numpy as np

from services.trainer.training_set import TrainingSet
from tests.denoisers import IMAGE_SIZE, PROMPTS


def films(repeats: tuple[int, ...] = (1, 1, 1, 5)) -> TrainingSet:
    """Four soft pictures with their prompts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 4, 4))
    images = np.kron(coarse, np.ones((IMAGE_SIZE // 4, IMAGE_SIZE // 4))).astype(np.uint8)
    return TrainingSet(images, PROMPTS, np.array(repeats))
