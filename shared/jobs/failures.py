"""What a job's record says when it failed: the same problems that HTTP answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import LetheError
from shared.http.problems import problem_document, problem_of


class PartFailedError(LetheError):
    """A job that does a part of this one failed; its problem is this one's."""

    def __init__(self, part: str, problem: Mapping[str, Any]) -> None:
        """Say which part it was before what happened."""
        self.problem = {**problem, "detail": f"{part}: {problem.get('detail') or problem['title']}"}
        super().__init__(self.problem["detail"])


def failure_of(error: BaseException, *, trace_id: str | None) -> dict[str, Any]:
    """The problem of an error that ended a job; for an unexpected one nothing but the trace id."""
    return error.problem if isinstance(error, PartFailedError) else problem_of(error, trace_id=trace_id)


def lost_too_often(*, losses: int, trace_id: str | None) -> dict[str, Any]:
    """The problem of a job whose process died again and again."""
    detail = f"The process that ran this job ended {losses} times without a result (killed or out of memory); it is not tried again."
    return problem_document("internal", detail=detail, trace_id=trace_id)
