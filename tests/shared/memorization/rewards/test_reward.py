"""What a reward is."""

from __future__ import annotations

from types import SimpleNamespace

from shared.memorization.rewards.reward import Reward


class Sharpness:
    name = "sharpness"
    direction = "minimize"
    aspect = "memorization"

    def __call__(self, _evaluation: object) -> None: ...


def test_what_has_a_name_a_direction_and_an_aspect_and_can_be_called_is_a_reward() -> None:
    assert isinstance(Sharpness(), Reward)
    assert not isinstance(SimpleNamespace(name="sharpness", direction="minimize", aspect="memorization"), Reward)
    assert not isinstance(lambda _evaluation: None, Reward)
