"""Agreement of prompt and image: sides and views count where they were asked for and can be told."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from shared.memorization.agreements import agreements, asked_items, compare, sorted_items

AP, PA = ("view", "AP"), ("view", "PA")
LEFT, RIGHT, EFFUSION = ("finding", "Pleural Effusion", "left"), ("finding", "Pleural Effusion", "right"), ("finding", "Pleural Effusion")
HEART = ("finding", "Cardiomegaly")
READABLE = [AP, PA, LEFT, RIGHT, HEART]


def test_prompt_is_read_without_empty_sides() -> None:
    assert asked_items("AP chest radiograph: left pleural effusion, cardiomegaly") == {AP, LEFT, HEART}


@pytest.mark.parametrize(
    ("asked", "seen", "value"),
    [
        ({AP, LEFT}, {AP, LEFT}, 1.0),
        ({AP, LEFT}, {AP, RIGHT}, 0.5),
        ({AP, LEFT}, {PA, HEART}, 0.0),
        ({AP, LEFT}, {AP}, 2 / 3),
        ({AP, LEFT}, {AP, LEFT, HEART}, 0.8),
        ({AP, EFFUSION}, {AP, LEFT}, 1.0),  # the prompt leaves the side open
        ({AP, EFFUSION}, {AP, LEFT, RIGHT}, 1.0),
        ({LEFT}, {AP, LEFT}, 1.0),  # and here the view
        ({LEFT}, set(), 0.0),
        (set(), {AP, LEFT}, None),
    ],
)
def test_agreement_is_the_overlap_of_what_can_be_compared(
    asked: set[tuple[str, ...]], seen: set[tuple[str, ...]], value: float | None
) -> None:
    measured = compare(frozenset(asked), frozenset(seen), READABLE).value
    assert measured == (None if value is None else pytest.approx(value))


def test_side_that_the_reader_cannot_tell_is_not_held_against_the_image() -> None:
    compared = compare(frozenset({AP, LEFT}), frozenset({AP, EFFUSION}), [AP, PA, EFFUSION])
    assert (compared.value, compared.asked) == (1.0, {AP, EFFUSION})


def test_items_are_told_in_a_fixed_order() -> None:
    assert sorted_items({LEFT, AP, HEART}) == [["finding", "Cardiomegaly"], ["finding", "Pleural Effusion", "left"], ["view", "AP"]]


def test_each_image_is_held_against_its_own_prompt() -> None:
    reader = Mock(items=READABLE)
    reader.read.return_value = [frozenset({AP, HEART}), frozenset({PA})]
    images = np.zeros((2, 8, 8), dtype=np.uint8)
    found = agreements(reader, ["AP chest radiograph, cardiomegaly", "AP chest radiograph"], images)
    reader.read.assert_called_once_with(images)
    assert [agreement.value for agreement in found] == [1, 0]
