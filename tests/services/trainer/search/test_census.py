"""What searched masks let learn of Stable Diffusion 1.5's denoiser, counted on a network of its shape."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer.parameters.attention_names import attention_names
from services.trainer.parameters.selection import select_parameters
from services.trainer.search.search_spec import SearchSpec
from services.trainer.search.space import Choice, Space
from services.trainer.search.warm_starts import warm_starts
from tests.stable_diffusion_shape import SD15_PARAMETERS, sd15_unet

FEWEST, MOST = 125_486, 222_805  # δ with no module masked in but the third of each up block, and with all


@pytest.fixture(scope="module")
def space() -> Space:
    training = {"name": "census", "dataset": "dst_1", "base": "mdl_1"}
    return Space.of(SearchSpec.model_validate({"training": training, "space": "svdiff"}), attention_names(sd15_unet().config) or [])


def learning(space: Space, mask: list[int]) -> int:
    choice = Choice.model_validate({"kind": "svdiff", "mask": mask, "learning_rate": space.middle_rate("svdiff")})
    return select_parameters(sd15_unet(), space.training(choice).parameters).count


def test_searched_masks_lie_between_the_published_ends_and_every_module_adds(space: Space) -> None:
    always = space.always["svdiff"]
    assert (len(space.modules), len(always), space.size) == (16, 3, 2**13 * 9)
    free = [index for index in range(16) if index not in always]
    order = np.random.default_rng(0).permutation(free).tolist()
    counts = [learning(space, [int(index in always or index in order[:kept]) for index in range(16)]) for kept in (0, 1, 5, 12, 13)]
    assert (counts[0], counts[-1]) == (FEWEST, MOST)
    assert counts == sorted(set(counts))
    assert [round(100 * count / SD15_PARAMETERS, 4) for count in (FEWEST, MOST)] == [0.0146, 0.0259]


def test_warm_start_of_the_published_share_is_about_the_published_size(space: Space) -> None:
    """MemControl tells 0.019 % of the denoiser for its mask."""
    kept = next(choice for choice in warm_starts(space, 0) if len(space.always["svdiff"]) < sum(choice.mask) < 16)
    count = learning(space, list(kept.mask))
    assert FEWEST < count < MOST
    assert 100 * count / SD15_PARAMETERS == pytest.approx(0.019, abs=0.002)
