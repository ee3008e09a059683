"""What Lethe says about itself: structured logs, trace ids, build information."""

from shared.telemetry.logs import bound_context, configure_logging, get_logger
from shared.telemetry.metrics import BUILD_INFO, lethe_version, publish_build_info
from shared.telemetry.tracing import current_trace_id, new_trace_id, trace_id_of, traceparent

__all__ = [
    "BUILD_INFO",
    "bound_context",
    "configure_logging",
    "current_trace_id",
    "get_logger",
    "lethe_version",
    "new_trace_id",
    "publish_build_info",
    "trace_id_of",
    "traceparent",
]
