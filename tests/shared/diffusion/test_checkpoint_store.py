"""Checkpoints in the store: exact, committed last, verified, pruned, and passed over when damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
import torch

from shared.diffusion.checkpoint_store import CheckpointStore
from shared.diffusion.checkpoints import State
from shared.errors import IntegrityError, NotFoundError, UnavailableError
from shared.storage import DirectoryStore

if TYPE_CHECKING:
    from pathlib import Path

STATE = State(
    {
        "run/modules/0.weight": torch.tensor([[0.1, -2.0], [3e-39, float("inf")]]),
        "run/modules/0.scale": torch.tensor([1.5], dtype=torch.bfloat16),
        "run/optimiser/0.step": torch.tensor(7.0),
        "run/streams/torch": torch.arange(5, dtype=torch.uint8),
        "progress/losses": torch.empty(0),
    },
    {"run": {"step": 7, "order": {"state": 2**127 + 1}}, "phase": "denoiser", "progress": {"seconds": 0.1}},
)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def checkpoints(store: DirectoryStore, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(store, "job_1", scratch=tmp_path / "scratch", keep=2)


def test_state_comes_back_bit_for_bit(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    checkpoints.write(7, STATE)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 7
    assert found.state.facts == STATE.facts
    assert found.state.tensors.keys() == STATE.tensors.keys()
    for name, tensor in STATE.tensors.items():
        assert found.state.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.state.tensors[name], tensor), name
    assert list((tmp_path / "scratch").iterdir()) == []


def test_files_are_safetensors_and_json_below_job_and_step(checkpoints: CheckpointStore, store: DirectoryStore) -> None:
    checkpoints.write(7, STATE)
    assert [found.key.removeprefix("checkpoints/job_1/7/") for found in store.list(prefix="checkpoints/")] == [
        "facts.json",
        "manifest.json",
        "progress.safetensors",
        "run/modules.safetensors",
        "run/optimiser.safetensors",
        "run/streams.safetensors",
    ]


def test_only_the_newest_are_kept(checkpoints: CheckpointStore, store: DirectoryStore) -> None:
    for step in (5, 10, 15, 20):
        checkpoints.write(step, STATE)
    assert checkpoints.steps() == [15, 20]
    assert {found.key.split("/")[2] for found in store.list(prefix="checkpoints/")} == {"15", "20"}


def test_without_a_checkpoint_there_is_none(checkpoints: CheckpointStore) -> None:
    assert checkpoints.newest() is None
    with pytest.raises(NotFoundError):
        checkpoints.read(3)


def test_checkpoint_without_its_manifest_does_not_exist(checkpoints: CheckpointStore, store: DirectoryStore) -> None:
    checkpoints.write(5, STATE)
    checkpoints.write(10, STATE)
    store.delete(key="checkpoints/job_1/10/manifest.json")
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("run/modules.safetensors", "changed"),
        ("run/modules.safetensors", "cut"),
        ("run/modules.safetensors", "gone"),
        ("facts.json", "changed"),
        ("facts.json", "gone"),
        ("manifest.json", "changed"),
        ("manifest.json", "cut"),
    ],
)
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(
    checkpoints: CheckpointStore, store: DirectoryStore, name: str, damage: str
) -> None:
    checkpoints.write(5, STATE)
    checkpoints.write(10, STATE)
    key = f"checkpoints/job_1/10/{name}"
    data = store.get(key=key)
    store.delete(key=key)
    if damage != "gone":
        store.put(key=key, data=data[: len(data) // 2] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with structlog.testing.capture_logs() as logs:
        found = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert [(line["event"], line["step"]) for line in logs] == [("checkpoint damaged, the one before is taken", 10)]
    with pytest.raises(IntegrityError):
        checkpoints.read(10)


def test_run_that_fell_back_replaces_what_was_damaged(checkpoints: CheckpointStore, store: DirectoryStore) -> None:
    for step in (5, 10, 15):
        checkpoints.write(step, STATE)
    store.put(key="checkpoints/job_1/15/facts.json", data=b"{}")
    checkpoints.write(12, STATE)
    assert checkpoints.steps() == [10, 12]
    checkpoints.write(15, STATE)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 15


def test_upload_that_breaks_off_leaves_the_one_before(
    checkpoints: CheckpointStore, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.write(5, STATE)
    checkpoints.write(10, STATE)

    def away(**_words: object) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_file", away)
        with pytest.raises(UnavailableError):
            checkpoints.write(10, STATE)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5


def test_removal_leaves_what_is_no_checkpoint(checkpoints: CheckpointStore, store: DirectoryStore) -> None:
    checkpoints.write(5, STATE)
    store.put(key="checkpoints/job_1/losses.json", data=b"{}")
    store.put(key="checkpoints/job_1/validation/5.png", data=b"png")
    store.put(key="checkpoints/job_2/5/manifest.json", data=b"{}")
    checkpoints.remove()
    assert [found.key for found in store.list(prefix="checkpoints/")] == [
        "checkpoints/job_1/losses.json",
        "checkpoints/job_1/validation/5.png",
        "checkpoints/job_2/5/manifest.json",
    ]
