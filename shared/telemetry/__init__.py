"""What Lethe says about itself: structured logs, trace ids, build information."""

from shared.telemetry.logs import bound_context, configure_logging, get_logger
from shared.telemetry.metrics import BUILD_INFO, lethe_version, publish_build_info
from shared.telemetry.spans import UNTOLD, Span, SpansUnavailableError, exporting, span
from shared.telemetry.tracing import bound_span, current_span_id, current_trace_id, new_trace_id, span_id_of, trace_id_of, traceparent

__all__ = [
    "BUILD_INFO",
    "UNTOLD",
    "Span",
    "SpansUnavailableError",
    "bound_context",
    "bound_span",
    "configure_logging",
    "current_span_id",
    "current_trace_id",
    "exporting",
    "get_logger",
    "lethe_version",
    "new_trace_id",
    "publish_build_info",
    "span",
    "span_id_of",
    "trace_id_of",
    "traceparent",
]
