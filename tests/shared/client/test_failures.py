"""Problems of services become exceptions that also belong to the error tree."""

from __future__ import annotations

import pytest

from shared.client.failures import InvalidRequestProblemError, MitigationProblemError, ProblemError, problem_error
from shared.errors import (
    ConflictError,
    ForbiddenError,
    IntegrityError,
    InvalidRequestError,
    MitigationInsufficientError,
    NotFoundError,
    PayloadTooLargeError,
    SaturatedError,
    UnavailableError,
)
from shared.http.problems import PROBLEM_KINDS, problem_of


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("no model"),
        ConflictError("no calibration"),
        ForbiddenError("outside"),
        PayloadTooLargeError("too large"),
        UnavailableError("store away"),
        SaturatedError("full"),
        IntegrityError("digest"),
        InvalidRequestError("too many", field="source.csv"),
        MitigationInsufficientError("none helped", evidence=[{"strategy": "auto"}]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_problem_of_an_error_comes_back_as_that_error_and_maps_to_the_same_problem(error: Exception) -> None:
    document = problem_of(error)
    raised = problem_error(document, status=document["status"])
    assert isinstance(raised, type(error))
    assert isinstance(raised, ProblemError)
    assert str(raised) == str(error)
    again = problem_of(raised)
    assert {name: again.get(name) for name in ("type", "status", "detail", "evidence")} == {
        name: document.get(name) for name in ("type", "status", "detail", "evidence")
    }


def test_every_slug_of_the_contract_is_an_exception_with_that_slug() -> None:
    for slug, kind in PROBLEM_KINDS.items():
        raised = problem_error({"type": f"urn:lethe:problem:{slug}", "title": kind.title, "trace_id": "ab"}, status=kind.status)
        assert (raised.slug, raised.status, raised.trace_id, str(raised)) == (slug, kind.status, "ab", kind.title)


def test_validation_problem_names_its_fields() -> None:
    document = problem_of(InvalidRequestError("must be positive", field="canaries.count"))
    raised = problem_error(document, status=422)
    assert isinstance(raised, InvalidRequestProblemError)
    assert raised.fields == ["body.canaries.count: must be positive"]


def test_mitigation_problem_keeps_evidence() -> None:
    raised = problem_error({"type": "urn:lethe:problem:mitigation-insufficient", "evidence": [{"verdict": "copy"}]}, status=409)
    assert isinstance(raised, MitigationProblemError)
    assert raised.evidence == [{"verdict": "copy"}]


def test_problem_without_members_still_says_something() -> None:
    assert str(problem_error({}, status=500)) == "The service answered 500."
