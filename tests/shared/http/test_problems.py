"""Slugs: every error of the tree has one, and a problem holds what it should."""

from __future__ import annotations

from typing import Any

import pytest

from shared import errors
from shared.errors import LetheError
from shared.http.problems import (
    PROBLEM_BASE,
    PROBLEM_KINDS,
    FieldProblem,
    MalformedRequestError,
    UnsupportedMediaTypeError,
    problem_document,
    problem_of,
    retry_headers,
    slug_of,
    waiting_headers,
)
from shared.jobs.idempotency import IdempotencyKeyReusedError

SLUGS = {
    "InvalidRequestError": "validation",
    "DatasetError": "validation",
    "UnauthenticatedError": "unauthenticated",
    "ForbiddenError": "forbidden",
    "LimitExceededError": "limit-exceeded",
    "QuotaExceededError": "rate-limited",
    "NotFoundError": "not-found",
    "ConflictError": "state-conflict",
    "AlreadyExistsError": "state-conflict",
    "MitigationInsufficientError": "mitigation-insufficient",
    "PayloadTooLargeError": "payload-too-large",
    "IntegrityError": "integrity-failed",
    "UnavailableError": "dependency-unavailable",
    "ScreenerUnavailableError": "screener-unavailable",
    "SaturatedError": "saturated",
    "OutOfDeviceMemoryError": "gpu-out-of-memory",
    "SettingsError": "internal",  # told to operators, in the log and by commands
    "JobCancelledError": "state-conflict",
}


# What some errors are told besides their message.
TOLD: dict[type[LetheError], dict[str, Any]] = {
    errors.MitigationInsufficientError: {"evidence": [{"n": 1}]},
    errors.UnauthenticatedError: {"reason": "missing"},
    errors.QuotaExceededError: {"retry_after_seconds": 7},
}


def make(kind: type[LetheError]) -> LetheError:
    return kind("why", **TOLD.get(kind, {}))


def test_every_error_of_the_tree_has_its_slug() -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LetheError)}
    del kinds["LetheError"]
    assert {name: slug_of(make(kind)) for name, kind in kinds.items()} == SLUGS


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (MalformedRequestError("x"), "malformed-request"),
        (UnsupportedMediaTypeError("x"), "unsupported-media-type"),
        (IdempotencyKeyReusedError("x"), "idempotency-key-reused"),
        (LetheError("x"), "internal"),
        (ValueError("x"), "internal"),
    ],
)
def test_error_of_a_layer_has_its_slug(error: Exception, slug: str) -> None:
    assert slug_of(error) == slug


@pytest.mark.parametrize(
    ("slug", "status"),
    [("validation", 422), ("mitigation-insufficient", 409), ("prompt-refused", 403), ("gone", 410), ("saturated", 503), ("internal", 500)],
)
def test_slug_has_its_status(slug: str, status: int) -> None:
    assert problem_document(slug)["status"] == status
    assert problem_document(slug)["type"] == PROBLEM_BASE + slug


def test_problem_holds_what_was_given_and_leaves_out_the_rest() -> None:
    errors_ = [FieldProblem(loc=["body", "steps"], msg="too many", type="less_than_equal")]
    assert problem_document("validation", detail="d", instance="/v1/x", trace_id="t", errors=errors_) == {
        "type": "urn:lethe:problem:validation",
        "title": "The request breaks the schema",
        "status": 422,
        "detail": "d",
        "instance": "/v1/x",
        "trace_id": "t",
        "errors": [{"loc": ["body", "steps"], "msg": "too many", "type": "less_than_equal"}],
    }
    assert set(problem_document("not-found")) == {"type", "title", "status"}


def test_insufficient_mitigation_carries_its_evidence() -> None:
    problem = problem_of(errors.MitigationInsufficientError("why", evidence=[{"strategy": "auto"}]), trace_id="t")
    assert (problem["status"], problem["evidence"], problem["detail"]) == (409, [{"strategy": "auto"}], "why")


def test_defect_keeps_its_message_to_itself() -> None:
    assert "detail" not in problem_of(ValueError("canary-prompt"))


def test_only_passing_troubles_ask_to_come_back() -> None:
    assert {slug for slug in PROBLEM_KINDS if retry_headers(slug)} == {
        "idempotency-in-flight",
        "rate-limited",
        "saturated",
        "dependency-unavailable",
        "screener-unavailable",
    }
    assert retry_headers("saturated") == {"Retry-After": "5"}


def test_wait_is_told_where_it_is_known() -> None:
    assert waiting_headers(errors.QuotaExceededError("why", retry_after_seconds=7)) == {"Retry-After": "7"}
    assert waiting_headers(errors.SaturatedError("why")) == {}
