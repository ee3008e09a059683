"""Lengths of prompts come in order, whatever the batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.imaging.prompt_lengths import PROMPTS_AT_ONCE, prompt_lengths


def test_lengths_come_in_order_from_batches() -> None:
    batches = []

    def count(prompts: Sequence[str]) -> list[int]:
        batches.append(len(prompts))
        return [len(prompt.split()) for prompt in prompts]

    total = 2 * PROMPTS_AT_ONCE + 1
    assert list(prompt_lengths(("word " * (n % 7) for n in range(total)), count)) == [n % 7 for n in range(total)]
    assert batches == [PROMPTS_AT_ONCE, PROMPTS_AT_ONCE, 1]


def test_no_prompts_have_no_lengths() -> None:
    assert list(prompt_lengths([], len)) == []  # type: ignore[arg-type]


def test_counter_that_loses_prompts_is_a_defect() -> None:
    with pytest.raises(ValueError, match="count must answer 2 lengths, not 1"):
        list(prompt_lengths(["a", "b"], lambda _: [1]))
