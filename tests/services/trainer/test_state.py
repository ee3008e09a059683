"""The trainer's state."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from services.trainer.state import TrainerState


def test_state_is_made_whole_and_stays_as_it_is() -> None:
    parts = {field.name: mock.sentinel.part for field in dataclasses.fields(TrainerState)}
    state = TrainerState(**parts)
    assert (state.jobs, state.runner) == (mock.sentinel.part, mock.sentinel.part)  # what the routes of operations ask for
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.jobs = mock.sentinel.other  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainerState(jobs=mock.sentinel.part)  # type: ignore[call-arg]
