"""Problems (RFC 9457): one slug per meaning, and which of Lethe's errors means which slug."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    IntegrityError,
    InvalidRequestError,
    JobCancelledError,
    LetheError,
    LimitExceededError,
    MitigationInsufficientError,
    NotFoundError,
    OutOfDeviceMemoryError,
    PayloadTooLargeError,
    QuotaExceededError,
    SaturatedError,
    ScreenerUnavailableError,
    UnauthenticatedError,
    UnavailableError,
)
from shared.jobs.idempotency import IdempotencyInFlightError, IdempotencyKeyReusedError

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
# Never changed after the first release: clients compare it. A URN promises no page behind it.
PROBLEM_BASE: Final = "urn:lethe:problem:"
# How long a caller should wait before it asks a saturated or half-deaf service again.
RETRY_AFTER_SECONDS: Final = 5


class MalformedRequestError(LetheError):
    """A body, cursor or header cannot be read."""


class RequestTimeoutError(LetheError):
    """The request did not come whole in time."""


class HeadersTooLargeError(LetheError):
    """The request's head is above its limit."""


class UnsupportedMediaTypeError(LetheError):
    """The body is not plain JSON."""


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What is fixed for a slug."""

    status: int
    title: str
    retry: bool = False


PROBLEM_KINDS: Final[Mapping[str, ProblemKind]] = {
    "malformed-request": ProblemKind(400, "The request cannot be read"),
    "validation": ProblemKind(422, "The request breaks the schema"),
    "unauthenticated": ProblemKind(401, "No valid credential"),
    "forbidden": ProblemKind(403, "Not allowed"),
    "prompt-refused": ProblemKind(403, "The prompt is refused"),
    "limit-exceeded": ProblemKind(403, "More than this caller may ask for"),
    "not-found": ProblemKind(404, "Not found"),
    "gone": ProblemKind(410, "Expired"),
    "method-not-allowed": ProblemKind(405, "The route does not know this method"),
    "request-timeout": ProblemKind(408, "The request did not come in time"),
    "headers-too-large": ProblemKind(431, "The request's head is too large"),
    "unsupported-media-type": ProblemKind(415, "The body must be plain JSON"),
    "state-conflict": ProblemKind(409, "In conflict with the present state"),
    "release-not-allowed": ProblemKind(409, "Release without an audit that meets the policy"),
    "mitigation-insufficient": ProblemKind(409, "No strategy brings the image under the threshold"),
    "idempotency-key-reused": ProblemKind(409, "The Idempotency-Key was used with another body"),
    "idempotency-in-flight": ProblemKind(409, "The first request with this Idempotency-Key still runs", retry=True),
    "precondition-failed": ProblemKind(412, "The If-Match is stale"),
    "precondition-required": ProblemKind(428, "An If-Match is required"),
    "payload-too-large": ProblemKind(413, "The body is too large"),
    "rate-limited": ProblemKind(429, "Too many requests", retry=True),
    "saturated": ProblemKind(503, "The queue is full", retry=True),
    "dependency-unavailable": ProblemKind(503, "A dependency does not answer", retry=True),
    "screener-unavailable": ProblemKind(503, "The screening does not answer, nothing is released unscreened", retry=True),
    "gpu-out-of-memory": ProblemKind(503, "The device has too little memory for this"),
    "integrity-failed": ProblemKind(500, "Stored bytes do not match their digest"),
    "internal": ProblemKind(500, "A defect in Lethe"),
}

# A class not listed here has the slug of its nearest listed ancestor; what is no LetheError is `internal`.
_SLUG_OF_ERROR: Final[Mapping[type[LetheError], str]] = {
    MalformedRequestError: "malformed-request",
    UnsupportedMediaTypeError: "unsupported-media-type",
    RequestTimeoutError: "request-timeout",
    HeadersTooLargeError: "headers-too-large",
    InvalidRequestError: "validation",
    UnauthenticatedError: "unauthenticated",
    ForbiddenError: "forbidden",
    LimitExceededError: "limit-exceeded",
    QuotaExceededError: "rate-limited",
    NotFoundError: "not-found",
    ConflictError: "state-conflict",
    AlreadyExistsError: "state-conflict",
    MitigationInsufficientError: "mitigation-insufficient",
    IdempotencyKeyReusedError: "idempotency-key-reused",
    IdempotencyInFlightError: "idempotency-in-flight",
    PayloadTooLargeError: "payload-too-large",
    IntegrityError: "integrity-failed",
    UnavailableError: "dependency-unavailable",
    ScreenerUnavailableError: "screener-unavailable",
    SaturatedError: "saturated",
    OutOfDeviceMemoryError: "gpu-out-of-memory",
    JobCancelledError: "state-conflict",
}


class FieldProblem(BaseModel):
    """One field that breaks the schema; what was sent in it is never repeated."""

    model_config = ConfigDict(extra="forbid")

    loc: list[str | int] = Field(description="Where the field is: body, query, path or header, then names and positions.")
    msg: str = Field(description="What is wrong with it.")
    type: str = Field(description="The kind of violation, as Pydantic names it.")


class Problem(BaseModel):
    """The body of every error, after RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI that names the meaning and never changes.")
    title: str = Field(description="The meaning in words.")
    status: int = Field(description="The HTTP status; in an operation's `error`, the one it would have had.")
    detail: str | None = Field(default=None, description="What happened this time and what to do.")
    instance: str | None = Field(default=None, description="The path that was asked.")
    trace_id: str | None = Field(default=None, description="The id to look for in the logs.")
    errors: list[FieldProblem] | None = Field(default=None, description="The fields that break the schema.")


def problem_document(
    slug: str,
    *,
    detail: str | None = None,
    instance: str | None = None,
    trace_id: str | None = None,
    errors: list[FieldProblem] | None = None,
    **members: Any,
) -> dict[str, Any]:
    """The JSON of a problem; members that have no value are left out."""
    kind = PROBLEM_KINDS[slug]
    problem = Problem(
        type=PROBLEM_BASE + slug, title=kind.title, status=kind.status, detail=detail, instance=instance, trace_id=trace_id, errors=errors
    )
    return problem.model_dump(mode="json", exclude_none=True) | members


def problem_of(error: BaseException, *, instance: str | None = None, trace_id: str | None = None) -> dict[str, Any]:
    """The problem of an error: its message for Lethe's own, nothing but the trace id for any other."""
    slug = slug_of(error)
    members: dict[str, Any] = {}
    errors: list[FieldProblem] | None = None
    if isinstance(error, MitigationInsufficientError):
        members["evidence"] = error.evidence
    if isinstance(error, InvalidRequestError) and error.field is not None:
        errors = [FieldProblem(loc=["body", *error.field.split(".")], msg=str(error), type="value_error")]
    detail = None if slug == "internal" else (str(error) or None)
    return problem_document(slug, detail=detail, instance=instance, trace_id=trace_id, errors=errors, **members)


def slug_of(error: BaseException) -> str:
    """The slug that an error means."""
    for ancestor in type(error).__mro__:
        slug = _SLUG_OF_ERROR.get(ancestor)
        if slug is not None:
            return slug
    return "internal"


def waiting_headers(error: BaseException) -> dict[str, str]:
    """The Retry-After header of an error that knows how long waiting takes."""
    return {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, QuotaExceededError) else {}


def retry_headers(slug: str) -> dict[str, str]:
    """The Retry-After header of a problem that goes away by waiting."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if PROBLEM_KINDS[slug].retry else {}
