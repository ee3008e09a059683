"""Structured logs: one JSON object a line on stderr, with the context of the request or job, and never a prompt."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import AbstractContextManager
from types import TracebackType
from typing import cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shared.errors import LetheError

# Libraries that tell every request or statement at INFO; their warnings still come through.
_QUIET_LOGGERS = ("httpx", "httpcore", "sqlalchemy.engine", "urllib3")


def configure_logging(service: str) -> None:
    """Send Lethe's and the libraries' logs of this process to stderr as JSON lines that name the service."""

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Put the service's name into every line."""
        event["service"] = service
        return event

    shared_processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
        describe_exception,
    ]
    structlog.configure(
        processors=[*shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared_processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr_type),
            ],
            # The message of an exception may quote what a caller sent; `describe_exception` has told the safe part.
            keep_exc_info=False,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def get_logger(name: str) -> FilteringBoundLogger:
    """The structured logger of a module."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def bound_context(**values: str) -> AbstractContextManager[None]:
    """Add values to the lines written inside a `with` block only."""
    return structlog.contextvars.bound_contextvars(**values)


def describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by types and places; only Lethe's own messages are told, since others may quote a prompt."""
    error = _exception_of(event.pop("exc_info", None))
    if error is not None:
        event["exception"] = [_one_exception(link) for link in _chain(error)]
    return event


def repr_type(value: object) -> str:
    """What stands in a line for a value that JSON cannot hold: its type, never its content."""
    return f"<{type(value).__name__}>"


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at that moment, since it may be redirected after logging was configured."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line at once."""
        line = self.format(record) + "\n"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            # Nobody reads stderr any more; a service that cannot log still serves.
            return


def _exception_of(exc_info: object) -> BaseException | None:
    """The exception that a log call meant by its `exc_info`."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return cast("tuple[type[BaseException] | None, BaseException | None, TracebackType | None]", exc_info)[1]
    return sys.exc_info()[1] if exc_info else None


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what caused it, outermost first."""
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return links


def _one_exception(error: BaseException) -> dict[str, object]:
    """Type, places and, for Lethe's own errors, message of one exception."""
    told: dict[str, object] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
    if isinstance(error, LetheError):
        told["message"] = str(error)
    told["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return told
