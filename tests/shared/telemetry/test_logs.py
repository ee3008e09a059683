"""Log lines: JSON on stderr, context, and no text of callers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shared.errors import NotFoundError
from shared.telemetry.logs import bound_context, configure_logging, get_logger

CANARY = "canary-prompt-7f3a"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A configured process; the fixture's value reads the lines written so far."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging("trainer")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_line_holds_event_values_service_and_context(lines: Any) -> None:
    with bound_context(request_id="r1", trace_id="t1"):
        get_logger("here").info("job started", kind="quick")
    get_logger("here").info("after")
    first, second = lines()
    assert {name: first[name] for name in ("event", "kind", "service", "request_id", "trace_id", "level", "logger")} == {
        "event": "job started",
        "kind": "quick",
        "service": "trainer",
        "request_id": "r1",
        "trace_id": "t1",
        "level": "info",
        "logger": "here",
    }
    assert first["timestamp"].endswith("Z")
    assert "request_id" not in second


def test_library_line_becomes_json(lines: Any) -> None:
    logging.getLogger("uvicorn.error").warning("shutting %s", "down")
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"], line["service"]) == ("shutting down", "warning", "uvicorn.error", "trainer")


def test_exception_tells_type_and_place_but_no_message(lines: Any) -> None:
    def fail() -> None:
        raise ValueError(CANARY)

    try:
        fail()
    except ValueError:
        get_logger("here").exception("failed")
        logging.getLogger("library").exception("failed too")
    written = lines()
    assert [line["exception"][0]["type"] for line in written] == ["builtins.ValueError"] * 2
    assert written[0]["exception"][0]["frames"][-1].endswith(" fail")
    assert CANARY not in json.dumps(written)


def test_lethe_error_tells_its_message_and_its_cause_only_by_type(lines: Any) -> None:
    error = NotFoundError("There is no model mdl_1.")
    error.__cause__ = KeyError(CANARY)
    get_logger("here").warning("failed", exc_info=error)
    (line,) = lines()
    assert [link["type"] for link in line["exception"]] == ["shared.errors.NotFoundError", "builtins.KeyError"]
    assert line["exception"][0]["message"] == "There is no model mdl_1."
    assert CANARY not in json.dumps(line)


def test_value_that_json_cannot_hold_is_told_by_type(lines: Any) -> None:
    class Prompt:
        def __repr__(self) -> str:
            return CANARY

    get_logger("here").info("odd", value=Prompt())
    (line,) = lines()
    assert line["value"] == "<Prompt>"


def test_debug_lines_are_left_out(lines: Any) -> None:
    get_logger("here").debug("quiet")
    logging.getLogger("httpx").info("HTTP Request")
    assert lines() == []
