"""What a caller catches: each problem of a service as an exception that is also the error of the tree it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.errors import (
    ConflictError,
    ForbiddenError,
    IntegrityError,
    InvalidRequestError,
    LetheError,
    MitigationInsufficientError,
    NotFoundError,
    PayloadTooLargeError,
    SaturatedError,
    UnavailableError,
)

PROBLEM_BASE: Final = "urn:lethe:problem:"


class UnexpectedAnswerError(LetheError):
    """A service answered something that is not in the contract; something else may be listening there."""


class ProblemError(LetheError):
    """A service answered with a problem (RFC 9457); the message is its detail."""

    def __init__(self, body: Mapping[str, Any], *, status: int) -> None:
        """Keep the problem whole."""
        self.body = dict(body)
        self.status = status
        self.slug = str(body.get("type", "")).removeprefix(PROBLEM_BASE)
        self.detail = str(body.get("detail") or body.get("title") or f"The service answered {status}.")
        self.trace_id = str(body.get("trace_id") or "")
        # Not super(): the other parent's constructor wants what is in the body already.
        LetheError.__init__(self, self.detail)

    @property
    def fields(self) -> list[str]:
        """The offending fields of a validation problem, each with what is wrong with it."""
        return [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in self.body.get("errors") or []]


class NotFoundProblemError(ProblemError, NotFoundError):
    """A service knows no such thing."""


class ConflictProblemError(ProblemError, ConflictError):
    """The present state of a service does not allow the request."""


class ForbiddenProblemError(ProblemError, ForbiddenError):
    """A service may not do this."""


class UnauthenticatedProblemError(ProblemError):
    """A service does not accept the credential; not the error of the tree, which would blame the caller of whoever asked."""


class PayloadTooLargeProblemError(ProblemError, PayloadTooLargeError):
    """The body was above the service's limit."""


class UnavailableProblemError(ProblemError, UnavailableError):
    """A service lacks something it depends on."""


class SaturatedProblemError(ProblemError, SaturatedError):
    """A service's queue is full."""


class IntegrityProblemError(ProblemError, IntegrityError):
    """Something in the store is not what was committed."""


class InvalidRequestProblemError(ProblemError, InvalidRequestError):
    """A service found the request against its schema."""

    field: str | None = None


class MitigationProblemError(ProblemError, MitigationInsufficientError):
    """No strategy brought the images under the thresholds; `evidence` has one entry per image."""

    def __init__(self, body: Mapping[str, Any], *, status: int) -> None:
        """Take the evidence out of the problem."""
        ProblemError.__init__(self, body, status=status)
        self.evidence = list(body.get("evidence") or [])


_ERROR_OF_SLUG: Final[Mapping[str, type[ProblemError]]] = {
    "not-found": NotFoundProblemError,
    "state-conflict": ConflictProblemError,
    "mitigation-insufficient": MitigationProblemError,
    "idempotency-key-reused": ConflictProblemError,
    "idempotency-in-flight": ConflictProblemError,
    "unauthenticated": UnauthenticatedProblemError,
    "forbidden": ForbiddenProblemError,
    "payload-too-large": PayloadTooLargeProblemError,
    "validation": InvalidRequestProblemError,
    "saturated": SaturatedProblemError,
    "dependency-unavailable": UnavailableProblemError,
    "screener-unavailable": UnavailableProblemError,
    "integrity-failed": IntegrityProblemError,
}


def problem_error(body: Mapping[str, Any], *, status: int) -> ProblemError:
    """The exception that a problem means."""
    slug = str(body.get("type", "")).removeprefix(PROBLEM_BASE)
    return _ERROR_OF_SLUG.get(slug, ProblemError)(body, status=status)
