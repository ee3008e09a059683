"""The typed state of a service: made by its lifespan, handed to its routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from fastapi import FastAPI, Request

from shared.jobs.records import JobStore
from shared.jobs.runner import JobRunner

StateT = TypeVar("StateT")


class JobsState(Protocol):
    """The part of a state that the routes of operations need."""

    @property
    def jobs(self) -> JobStore:
        """The job records."""

    @property
    def runner(self) -> JobRunner:
        """What runs them."""


class Draining:
    """Whether the process is about to stop: readiness turns false, event streams end."""

    def __init__(self) -> None:
        self.begun = False


def state_of(kind: type[StateT]) -> Callable[[Request], StateT]:
    """A FastAPI dependency that answers the service's state, whose class is `kind`."""

    def dependency(request: Request) -> StateT:
        """The state, as the lifespan made it."""
        return read_state(request, kind)

    return dependency


def read_state(request: Request, kind: type[StateT]) -> StateT:
    """The service's state of a request."""
    state = request.state.service
    if not isinstance(state, kind):
        raise TypeError(f"The lifespan made a {type(state).__name__}, the route expects a {kind.__name__}.")
    return state


def draining_of(app: FastAPI) -> Draining:
    """The draining flag of an app."""
    draining = app.state.draining
    if not isinstance(draining, Draining):
        raise TypeError("The app was not made by create_app.")
    return draining
