"""Build information."""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, generate_latest

from shared.telemetry.metrics import lethe_version, publish_build_info
from shared.telemetry.revision import lethe_revision


def test_build_info_tells_version_and_revision() -> None:
    publish_build_info()
    assert REGISTRY.get_sample_value("lethe_build_info", {"version": lethe_version(), "revision": lethe_revision()}) == 1


def test_exposition_leaves_out_when_series_began() -> None:
    publish_build_info()
    Counter("told_of_by_a_test", "Nothing of Lethe's.")
    assert "told_of_by_a_test_total 0.0" in generate_latest().decode()
    assert "_created" not in generate_latest().decode()


def test_version_is_a_word() -> None:
    assert lethe_version()
    assert lethe_version().strip() == lethe_version()
