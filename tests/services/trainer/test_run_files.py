"""What training jobs leave to look at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from services.trainer import run_files
from services.trainer.run_files import RunFiles
from shared.diffusion import checkpoint_store
from shared.errors import NotFoundError
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_files_are_where_the_worker_writes_them() -> None:
    assert run_files.FOLDER == checkpoint_store.FOLDER


def test_losses_are_those_of_the_job_and_none_before_the_first(store: DirectoryStore) -> None:
    curves = [{"phase": "denoiser", "steps": 2, "points": [[1, 0.5], [2, 0.25]]}]
    store.put(key="checkpoints/job_1/losses.json", data=json.dumps({"curves": curves}).encode())
    assert RunFiles(store).losses("job_1") == curves
    assert RunFiles(store).losses("job_2") == []


def test_strips_are_listed_in_the_order_of_their_steps(store: DirectoryStore) -> None:
    for step in (20, 100, 3):
        store.put(key=f"checkpoints/job_1/validation/{step}.png", data=str(step).encode())
    store.put(key="checkpoints/job_1/20/manifest.json", data=b"{}")
    files = RunFiles(store)
    assert files.strip_steps("job_1") == [3, 20, 100]
    assert files.strip_steps("job_2") == []
    assert files.strip("job_1", 100) == b"100"
    with pytest.raises(NotFoundError, match="job_1 has no validation strip of step 7"):
        files.strip("job_1", 7)
