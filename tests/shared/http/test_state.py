"""Typed state."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request

from shared.http.state import Draining, draining_of, read_state, state_of


def request_with(service: object) -> Request:
    return Request({"type": "http", "headers": [], "state": {"service": service}})


def test_state_of_the_expected_kind_is_answered() -> None:
    assert read_state(request_with("words"), str) == "words"
    assert state_of(str)(request_with("words")) == "words"


def test_state_of_another_kind_is_a_defect() -> None:
    with pytest.raises(TypeError, match="made a int, the route expects a str"):
        read_state(request_with(3), str)


def test_draining_flag_belongs_to_apps_of_ours() -> None:
    app = FastAPI()
    app.state.draining = Draining()
    assert not draining_of(app).begun
    app.state.draining = None
    with pytest.raises(TypeError):
        draining_of(app)
