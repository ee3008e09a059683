from __future__ import annotations

import pytest

from services.trainer.search.space import Space
from services.trainer.search.warm_starts import levels, warm_starts
from tests.services.trainer.search.test_space import SD15, TINY
from tests.services.trainer.search.toy import spec_of


def masks(space: Space, seed: int = 0) -> list[str]:
    return ["".join(map(str, choice.mask)) for choice in warm_starts(space, seed)]


def test_levels_pair_a_down_block_with_the_up_block_of_its_resolution() -> None:
    assert levels(TINY) == {"level 1": [0, 2, 3], "middle": [1]}
    assert levels(SD15) == {"level 0": [0, 1, 13, 14, 15], "level 1": [2, 3, 10, 11, 12], "level 2": [4, 5, 7, 8, 9], "middle": [6]}
    assert levels(["down_blocks.1.attentions.0", "down_blocks.2.attentions.0", "up_blocks.0.attentions.0", "up_blocks.1.attentions.0"]) == {
        "level 1": [0, 3],
        "level 2": [1, 2],
    }
    assert levels(["mid_block.attentions.0"]) == {"middle": [0]}


def test_the_tiny_base_starts_with_all_none_the_share_and_each_resolution() -> None:
    found = masks(Space.of(spec_of(), TINY))
    assert (found[:2], found[3:]) == (["1111", "0000"], ["1011", "0100"])
    assert found[2].count("1") == 2
    assert {choice.learning_rate for choice in warm_starts(Space.of(spec_of(), TINY), 0)} == {1e-4}
    assert {choice.origin for choice in warm_starts(Space.of(spec_of(), TINY), 0)} == {"warm start"}


def test_stable_diffusions_third_up_attentions_always_take_part() -> None:
    found = masks(Space.of(spec_of(), SD15))
    assert len(found) == 7
    assert all(mask[9] == mask[12] == mask[15] == "1" for mask in found)
    assert found[2].count("1") == 3 + 5  # 0.39 of 13 bits


@pytest.mark.parametrize("kind", ["attention", "lora"])
def test_what_learns_in_attention_alone_does_not_start_with_none(kind: str) -> None:
    assert all("1" in mask for mask in masks(Space.of(spec_of(space=kind), TINY)))


def test_a_lora_starts_at_its_middle_rank() -> None:
    assert warm_starts(Space.of(spec_of(space="lora"), TINY), 0)[0].ranks == [4, 4, 4, 4]


def test_of_all_kinds_the_same_mask_stands_side_by_side() -> None:
    found = warm_starts(Space.of(spec_of(space="auto"), TINY), 0)
    assert [(choice.kind, sum(choice.mask)) for choice in found[:4]] == [("svdiff", 4), ("diffit", 4), ("attention", 4), ("lora", 4)]
    assert len({choice.key() for choice in found}) == len(found)


def test_the_share_is_drawn_by_the_seed() -> None:
    space = Space.of(spec_of(), SD15)
    assert masks(space, 3) == masks(space, 3)
    assert len({masks(space, seed)[2] for seed in range(5)}) > 1
