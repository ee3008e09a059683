"""What figures are said to have been measured with."""

from __future__ import annotations

from shared.cli.provenance import read_machine, read_versions


def test_report_says_where_and_with_what_it_was_made() -> None:
    assert set(read_versions()) >= {"python", "lethe", "torch", "diffusers"}
    machine = read_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1_000_000
