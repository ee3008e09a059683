"""The error tree: every failure that Lethe names, from the lowest layer up.

LetheError
├── InvalidRequestError      readable input that breaks a rule
│   └── DatasetError         a data set's source that cannot be used; names file, row or column
├── UnauthenticatedError     no credential, or one that is not valid
├── ForbiddenError           a place outside what the configuration allows
│   └── LimitExceededError   more at once than the caller may ever ask for
├── QuotaExceededError       more than is left of a caller's quota
├── NotFoundError            an id, key or alias that does not exist
├── ConflictError            a request that the present state does not allow
│   ├── AlreadyExistsError   a key that is committed and therefore never written again
│   └── MitigationInsufficientError   no strategy brought the image under the thresholds
├── PayloadTooLargeError     a body or picture above its limit
├── IntegrityError           stored bytes that do not match their recorded digest
├── UnavailableError         a dependency (store, database, sibling service) that does not answer
│   └── ScreenerUnavailableError   the detector is away, so generation fails closed
├── SaturatedError           a queue that is full
├── OutOfDeviceMemoryError   a model or batch that the device has no memory for
├── SettingsError            a setting that cannot be used; names its variable
└── JobCancelledError        a job that was asked to stop

A message says what was wrong and what to do; it never holds a prompt, a key or patient data.
"""

from __future__ import annotations

from typing import Any


class LetheError(Exception):
    """Root of all errors that Lethe raises on purpose."""


class InvalidRequestError(LetheError):
    """The input is readable but breaks a rule; `field` names where."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        """Keep the offending field's name beside the message."""
        super().__init__(message)
        self.field = field


class DatasetError(InvalidRequestError):
    """A data set's source cannot be used as it is; the message names the file, row or column."""


class UnauthenticatedError(LetheError):
    """The caller showed no credential, or one that is not valid; `reason` is one of a few words."""

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason


class ForbiddenError(LetheError):
    """The request reaches outside what the configuration allows."""


class LimitExceededError(ForbiddenError):
    """One request asks for more than the caller's quota ever allows; waiting does not help."""


class QuotaExceededError(LetheError):
    """The caller's quota is used up until its window ends."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        """Keep beside the message how long the window lasts."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(LetheError):
    """No such resource, or none that the caller may see."""


class ConflictError(LetheError):
    """The request contradicts the present state of a resource."""


class AlreadyExistsError(ConflictError):
    """The key is committed; committed things never change."""


class MitigationInsufficientError(ConflictError):
    """No strategy brought the image under the thresholds; `evidence` tells what was tried."""

    def __init__(self, message: str, *, evidence: list[dict[str, Any]]) -> None:
        """Keep the evidence, one entry per image."""
        super().__init__(message)
        self.evidence = evidence


class PayloadTooLargeError(LetheError):
    """The body or picture is above its limit."""


class IntegrityError(LetheError):
    """Stored bytes do not match the digest recorded when they were committed."""


class UnavailableError(LetheError):
    """A dependency does not answer; try again later."""


class ScreenerUnavailableError(UnavailableError):
    """The detector does not answer, and nothing is released unscreened."""


class SaturatedError(LetheError):
    """The queue is full; try again later."""


class OutOfDeviceMemoryError(LetheError):
    """The device has too little memory for a model, or for a batch that was halved already."""


class SettingsError(LetheError, ValueError):
    """A setting cannot be used; the message names its variable, and never its value."""


class JobCancelledError(LetheError):
    """The job was asked to stop."""
