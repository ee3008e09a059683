"""The parts of the bridge that need no cluster; the whole of it is tried by the executor's tests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from shared.jobs import ray_bridge
from tests.fixtures.processes import ROOT


def node(*, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "slots"),
    [
        ([], 1, 0, 0),
        ([node(CPU=4.0), node(CPU=2.0)], 1, 0, 6),
        ([node(CPU=3.0), node(CPU=3.0)], 2, 0, 2),  # a job runs on one node: the two odd CPUs make no third slot
        ([node(CPU=4.0), node(CPU=4.0, alive=False)], 1, 0, 4),
        ([node(CPU=8.0, GPU=2.0), node(CPU=8.0)], 1, 1, 2),
        ([node(), node(CPU=1.0)], 0.5, 0, 2),
    ],
)
def test_slots_are_what_fits_on_each_living_node(nodes: list[dict[str, Any]], cpus: float, gpus: float, slots: int) -> None:
    assert ray_bridge.count_slots(nodes, cpus=cpus, gpus=gpus) == slots


def test_bridge_without_a_cluster_tells_its_failure_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared.jobs.ray_bridge", "{}"], input="", capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (1, {"failed": "TypeError"}, "")
