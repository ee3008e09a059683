"""The sampler's state."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from services.sampler.state import SamplerState


def test_state_is_made_whole_and_stays_as_it_is() -> None:
    parts = {field.name: mock.sentinel.part for field in dataclasses.fields(SamplerState)}
    state = SamplerState(**parts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.studio = mock.sentinel.other  # type: ignore[misc]
    with pytest.raises(TypeError):
        SamplerState(studio=mock.sentinel.part)  # type: ignore[call-arg]
