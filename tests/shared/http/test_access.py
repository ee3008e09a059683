"""What routes ask of their callers."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY

from shared.access import Caller, bound_caller
from shared.errors import ForbiddenError
from shared.http.access import REASONS, Requirement, asked_for, declare_access, guarded_routes, requires

READER = Caller(id="key_reader", kind="key", scopes=frozenset({"read"}))


def answer() -> None:
    """What a route does."""


async def test_caller_with_the_scope_passes() -> None:
    with bound_caller(READER):
        await Requirement("read", None)()


async def test_caller_without_the_scope_is_told_which_one_is_needed_and_counted() -> None:
    before = REGISTRY.get_sample_value("lethe_auth_failures_total", {"reason": "scope"})
    with bound_caller(READER), pytest.raises(ForbiddenError, match="'admin'"):
        await Requirement("admin", "admin")()
    assert REGISTRY.get_sample_value("lethe_auth_failures_total", {"reason": "scope"}) == (before or 0) + 1


async def test_any_caller_passes_where_no_scope_is_asked() -> None:
    await Requirement(None, None)()


def test_declaration_holds_scope_and_action() -> None:
    assert requires("export", action="download").dependency == Requirement("export", "download")


def test_app_with_a_route_that_declares_nothing_cannot_be_made() -> None:
    router = APIRouter()
    router.get("/v1/films", dependencies=[requires("read")])(answer)
    assert [requirement for _, requirement in guarded_routes([router])] == [Requirement("read", None)]
    router.get("/v1/secrets")(answer)
    with pytest.raises(TypeError, match="/v1/secrets"):
        guarded_routes([router])


def test_schema_says_what_each_operation_asks() -> None:
    router = APIRouter()
    router.get("/v1/films", dependencies=[requires("read")])(answer)
    router.get("/v1/info", dependencies=[requires(None)])(answer)
    router.get("/metrics", dependencies=[requires("metrics:read")], include_in_schema=False)(answer)
    schema: dict[str, Any] = {"components": {}, "paths": {"/v1/films": {"get": {}}, "/v1/info": {"get": {}}}}
    declare_access(schema, guarded_routes([router]))
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert schema["paths"]["/v1/films"]["get"]["security"] == [{"bearer": ["read"]}]
    assert schema["paths"]["/v1/info"]["get"]["security"] == [{"bearer": []}]


def test_every_reason_is_counted_from_the_start() -> None:
    assert [REGISTRY.get_sample_value("lethe_auth_failures_total", {"reason": reason}) is not None for reason in REASONS] == [True] * 11


@pytest.mark.parametrize(("path", "expected"), [("/v1/films", "/v1/films"), ("/v1/none", None)])
def test_route_of_a_request_is_looked_for_once(monkeypatch: pytest.MonkeyPatch, path: str, expected: str | None) -> None:
    router = APIRouter()
    router.get("/v1/films", dependencies=[requires("read")])(answer)
    guarded = guarded_routes([router])
    matches, tried = APIRoute.matches, list[str]()
    monkeypatch.setattr(APIRoute, "matches", lambda route, scope: (tried.append(route.path), matches(route, scope))[1])
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    found = [asked_for(scope, guarded) for _ in range(2)]
    assert [use and use[0].path for use in found] == [expected, expected]
    assert tried == ["/v1/films"]
