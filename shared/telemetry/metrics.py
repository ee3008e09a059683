"""The one metric that belongs to no module: what build is running."""

from __future__ import annotations

from importlib import metadata

from prometheus_client import Gauge, disable_created_metrics

from shared.telemetry.revision import lethe_revision

BUILD_INFO = Gauge("lethe_build_info", "The running build; always 1.", ["version", "revision"])


def lethe_version() -> str:
    """The installed version, or `0+source` when Lethe runs from a checkout that is not installed."""
    try:
        return metadata.version("lethe")
    except metadata.PackageNotFoundError:
        return "0+source"


def publish_build_info() -> None:
    """Set `lethe_build_info` for this process, and leave out when each series began, which Prometheus would keep as series of its own."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client annotates all but this
    BUILD_INFO.labels(version=lethe_version(), revision=lethe_revision()).set(1)
