"""Opening rewards by name: those that Lethe brings, and those of installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

from shared.errors import InvalidRequestError
from shared.memorization.rewards.built_in import REWARDS
from shared.memorization.rewards.names import ENTRY_POINTS, known_rewards
from shared.memorization.rewards.reward import Aspect, Direction, Reward


def open_rewards(names: Sequence[str]) -> list[Reward]:
    """The rewards of these names, in their order; what nobody brings or what is no reward is refused."""
    return [_open(name) for name in names]


def _open(name: str) -> Reward:
    if name in REWARDS:
        return REWARDS[name]
    found = set(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        raise InvalidRequestError(f"There is no reward {name}; known are {', '.join(known_rewards())}.")
    if len(found) > 1:
        raise InvalidRequestError(f"Several installed distributions bring a reward {name}; remove all but one.")
    return _open_plug_in(found.pop())


def _open_plug_in(entry: EntryPoint) -> Reward:
    """What an entry point names is called without arguments: a class, or a function that makes the reward."""
    try:
        reward = entry.load()()
    except Exception as error:
        raise InvalidRequestError(f"The reward {entry.name} cannot be opened from {entry.value}: {error}.") from error
    for part, allowed in (("direction", get_args(Direction)), ("aspect", get_args(Aspect)), ("name", (entry.name,))):
        if getattr(reward, part, None) not in allowed:
            raise InvalidRequestError(f"The reward {entry.name} of {entry.value} lacks its {part}, which must be {' or '.join(allowed)}.")
    if not isinstance(reward, Reward):
        raise InvalidRequestError(f"What {entry.value} makes is no reward: it cannot be called with an evaluation.")
    return reward
