"""What a process may still take of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from services.trainer import available_memory
from services.trainer.available_memory import available_device_bytes, available_host_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hierarchy of control groups in which this process is /a/b of version 2, and in none of version 1."""
    (tmp_path / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(available_memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(available_memory, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path / "cgroup"


def group(folder: Path, *, limit: str, used: int, cache: int, names: tuple[str, str, str] = available_memory._UNIFIED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cache}\n")


def machine() -> int:
    return int(psutil.virtual_memory().available)


def test_machine_alone_without_limits(cgroups: Path) -> None:
    group(cgroups / "a", limit="max", used=5, cache=0)
    assert available_host_bytes() == pytest.approx(machine(), rel=0.2)


def test_tightest_group_on_the_way_up_counts_and_its_cache_is_free(cgroups: Path) -> None:
    group(cgroups / "a" / "b", limit="9000000", used=1_000_000, cache=0)
    group(cgroups / "a", limit="5000000", used=4_000_000, cache=600_000)
    assert available_host_bytes() == 1_600_000
    assert available_device_bytes("cpu") == 1_600_000


def test_full_group_leaves_nothing(cgroups: Path) -> None:
    group(cgroups, limit="1000", used=5000, cache=0)
    assert available_host_bytes() == 0


def test_groups_of_version_1_are_read_too(cgroups: Path) -> None:
    (cgroups.parent / "own").write_text("4:memory:/docker/x\n3:cpu:/docker/x\n0::/\n")
    group(cgroups / "memory", limit="7000000", used=2_000_000, cache=500_000, names=available_memory._LEGACY)
    assert available_host_bytes() == 5_500_000


@pytest.mark.parametrize("content", ["", "nonsense", "-3"])
def test_unreadable_groups_limit_nothing(cgroups: Path, content: str) -> None:
    group(cgroups, limit="1000", used=0, cache=0)
    (cgroups / "memory.current").write_text(content if content != "-3" else "x")
    assert available_host_bytes() == pytest.approx(machine(), rel=0.2)


def test_system_without_groups_is_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(available_memory, "OWN_CGROUPS", tmp_path / "none")
    assert available_host_bytes() == pytest.approx(machine(), rel=0.2)
