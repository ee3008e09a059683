"""Spans: what took how long within a trace, sent by OpenTelemetry where LETHE_OTLP_ENDPOINT is set; else nothing is imported or done.

A span carries names from closed sets and numbers: never a prompt, a path, a caller or the message of an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, Protocol

from shared.errors import LetheError
from shared.telemetry.metrics import lethe_version
from shared.telemetry.tracing import bound_span, current_span_id, current_trace_id

SpanKind = Literal["server", "client", "consumer"]

# A collector that is away must not keep a service from stopping.
_EXPORT_SECONDS: Final = 5.0


class SpansUnavailableError(LetheError):
    """LETHE_OTLP_ENDPOINT is set, and what sends spans is not installed; install Lethe with the extra 'otel'."""


class Span(Protocol):
    """What is told of a span while it lasts."""

    def set_attribute(self, key: str, value: str | int) -> None:
        """Note something known by now."""

    def update_name(self, name: str) -> None:
        """Name it anew, now that more is known."""


class _Untold:
    """A span that nobody is told of."""

    def set_attribute(self, key: str, value: str | int) -> None:
        """Drop it."""

    def update_name(self, name: str) -> None:
        """Drop it."""


UNTOLD: Final = _Untold()
# The one exporter of this process; none unless `exporting` is under way.
_TRACERS: Final[list[Any]] = []


@contextmanager
def exporting(service: str, endpoint: str) -> Iterator[None]:
    """Send the spans of this process while the block lasts; without an endpoint, nothing is imported or done."""
    if not endpoint:
        yield
        return
    provider = _provider(service, endpoint)
    _TRACERS.append(provider.get_tracer("lethe", lethe_version()))
    try:
        yield
    finally:
        _TRACERS.pop()
        provider.shutdown()


@contextmanager
def span(name: str, *, kind: SpanKind, **attributes: str | int) -> Iterator[Span]:
    """Something that takes its time, as a part of the span around it, or of the one that the caller's `traceparent` named."""
    if not _TRACERS:
        yield UNTOLD
        return
    from opentelemetry import trace

    kinds = {"server": trace.SpanKind.SERVER, "client": trace.SpanKind.CLIENT, "consumer": trace.SpanKind.CONSUMER}
    started = _TRACERS[-1].start_span(name, context=_parent(), kind=kinds[kind], attributes=attributes)
    with bound_span(f"{started.get_span_context().span_id:016x}"):
        try:
            yield started
        except BaseException as error:
            started.set_attribute("error.type", type(error).__qualname__)
            started.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            started.end()


def _parent() -> Any:
    """OpenTelemetry's context of the span around; an empty one at the root, whose trace id the provider knows."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    trace_id, span_id = current_trace_id(), current_span_id()
    if trace_id is None or span_id is None:
        return Context()
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    around = trace.SpanContext(trace_id=int(trace_id, 16), span_id=int(span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(around), Context())


def _provider(service: str, endpoint: str) -> Any:
    """What makes spans and sends them in batches, on a thread of its own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as error:
        raise SpansUnavailableError("LETHE_OTLP_ENDPOINT is set, but spans cannot be sent: install Lethe with the extra 'otel'.") from error

    class TraceIds(RandomIdGenerator):
        """Span ids by chance; a root span belongs to the trace that is bound already, as a job's does."""

        def generate_trace_id(self) -> int:
            """The trace id of logs, problems and job records."""
            bound = current_trace_id()
            return super().generate_trace_id() if bound is None else int(bound, 16)

    resource = Resource.create({"service.name": service, "service.version": lethe_version()})
    provider = TracerProvider(resource=resource, id_generator=TraceIds(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)))
    return provider
