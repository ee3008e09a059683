"""How exceptions become problems: Lethe's errors, FastAPI's validation, the router's 404 and 405, and defects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, compile_path

from shared.errors import LetheError, UnavailableError
from shared.http.problem_metrics import count_problem
from shared.http.problems import (
    PROBLEM_BASE,
    PROBLEM_KINDS,
    PROBLEM_MEDIA_TYPE,
    FieldProblem,
    problem_document,
    problem_of,
    retry_headers,
    slug_of,
    waiting_headers,
)
from shared.telemetry import current_trace_id, get_logger

_SLUG_OF_STATUS: Final[Mapping[int, str]] = {
    400: "malformed-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "state-conflict",
    410: "gone",
    413: "payload-too-large",
    415: "unsupported-media-type",
    429: "rate-limited",
    503: "dependency-unavailable",
}
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# A part of a location that looks like a field's name; anything else may be a caller's text and is not repeated.
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]{0,63}")

_LOG = get_logger(__name__)


def install_problem_handlers(app: FastAPI) -> None:
    """Make an app answer every error with a problem."""
    app.add_exception_handler(LetheError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http_exception)


def problem_response(document: dict[str, Any], *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem as a response, counted, with Retry-After where waiting helps."""
    slug = str(document["type"]).removeprefix(PROBLEM_BASE)
    count_problem(slug)
    return JSONResponse(
        document, status_code=document["status"], headers={**retry_headers(slug), **(headers or {})}, media_type=PROBLEM_MEDIA_TYPE
    )


def defect_response(path: str) -> JSONResponse:
    """What a caller sees of a defect: the trace id and nothing else."""
    return problem_response(problem_document("internal", instance=path, trace_id=current_trace_id()))


def stopping_response(path: str) -> JSONResponse:
    """What a caller gets whose request was accepted and cannot be ended in time."""
    error = UnavailableError("The service is stopping; send the request again.")
    document = problem_of(error, instance=path, trace_id=current_trace_id())
    return problem_response(document, headers={"Connection": "close"})


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    """One of Lethe's own errors."""
    slug = slug_of(error)
    if PROBLEM_KINDS[slug].status >= 500:
        _LOG.warning("request failed", slug=slug, exc_info=error)
    document = problem_of(error, instance=request.url.path, trace_id=current_trace_id())
    return problem_response(document, headers=waiting_headers(error))


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """A request against the schema, or one that is no JSON at all."""
    raised = cast("RequestValidationError", error)
    violations = raised.errors()
    slug, detail = "validation", "Some fields break the schema; see errors."
    if any(violation["type"] == "json_invalid" for violation in violations):
        slug, detail = "malformed-request", "The body is not valid JSON."
    errors = [_field_problem(violation, raised.body) for violation in violations] if slug == "validation" else None
    return problem_response(problem_document(slug, detail=detail, instance=request.url.path, trace_id=current_trace_id(), errors=errors))


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What Starlette's router and FastAPI's parser raise."""
    raised = cast("HTTPException", error)
    slug = _SLUG_OF_STATUS.get(raised.status_code, "internal" if raised.status_code >= 500 else "malformed-request")
    detail = f"The {request.app.state.service} has nothing at this path." if slug == "not-found" else None
    document = problem_document(slug, detail=detail, instance=request.url.path, trace_id=current_trace_id())
    headers = {"Allow": _allowed_methods(request)} if slug == "method-not-allowed" else raised.headers
    return problem_response(document, headers=headers)


def _allowed_methods(request: Request) -> str:
    """The methods of all routes with this path; Starlette names those of the first one only. A path written out is no other's `{id}`."""
    path = request.scope["path"]
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matching = [template for template in paths if compile_path(template)[0].fullmatch(path)]
    if matching:
        return ", ".join(sorted(method.upper() for method in paths[min(matching, key=lambda template: template.count("{"))]))
    routes = request.app.routes  # those outside the schema
    return ", ".join(
        method for method in _METHODS if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    )


def _field_problem(violation: Mapping[str, Any], body: object) -> FieldProblem:
    """One violation without what was sent."""
    loc = [_safe_part(part) for part in _fields(violation, body)]
    return FieldProblem(loc=loc, msg=_safe_message(violation), type=str(violation["type"]))


def _fields(violation: Mapping[str, Any], body: object) -> Iterator[str | int]:
    """Where a violation is, by fields alone: Pydantic also names which part of a union was meant, by a value of its tag."""
    loc = cast("Sequence[str | int]", violation["loc"])
    lacking = len(loc) - 1 if violation["type"] == "missing" else None  # a field whose name may be somewhere a value
    at: Any = {"body": body}
    for place, part in enumerate(loc):
        if isinstance(at, dict) and part not in at and part in at.values() and place != lacking:
            continue
        yield part
        at = at.get(part) if isinstance(at, dict) else at[part] if isinstance(at, list) and isinstance(part, int) else None


def _safe_part(part: str | int) -> str | int:
    """A position, or a name that can be a field's."""
    return part if isinstance(part, int) or _FIELD_NAME.fullmatch(part) else "(unnamed)"


def _safe_message(violation: Mapping[str, Any]) -> str:
    """Pydantic's message, unless it quotes what was sent."""
    message = str(violation["msg"])
    if violation["type"] == "union_tag_invalid":
        return f"Input should have one of the tags {violation['ctx']['expected_tags']}"
    sent = violation.get("input")
    if isinstance(sent, str) and len(sent) > 1 and sent in message:
        return "Input is not valid"
    return message
