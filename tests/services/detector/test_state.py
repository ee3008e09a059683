"""The detector's state."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from services.detector.state import DetectorState


def test_state_is_made_whole_and_stays_as_it_is() -> None:
    parts = {field.name: mock.sentinel.part for field in dataclasses.fields(DetectorState)}
    state = DetectorState(**parts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.jobs = mock.sentinel.other  # type: ignore[misc]
    with pytest.raises(TypeError):
        DetectorState(jobs=mock.sentinel.part)  # type: ignore[call-arg]
