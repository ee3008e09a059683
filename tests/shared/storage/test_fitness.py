"""Fitness: probed first, asked quietly afterwards, and withdrawn when the store takes no more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from shared.errors import UnavailableError
from shared.storage import DirectoryStore, StoreFitness, fitness


class Watched(DirectoryStore):
    """Counts its probes, and lacks what a test says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.probes = 0
        self.lacking: set[str] = set()
        self.is_full = False

    def probe(self) -> dict[str, bool]:
        self.probes += 1
        if self.is_full:
            raise UnavailableError("The object store refused the request (QuotaExceeded).")
        return {name: present and name not in self.lacking for name, present in super().probe().items()}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_fit_store_is_probed_once(watched: Watched) -> None:
    fit = StoreFitness(watched)
    for _ in range(3):
        fit.check(writes=True)
    assert watched.probes == 1


@pytest.mark.parametrize("capability", ["read_back", "digest"])
def test_missing_required_capability_refuses_until_it_is_there(watched: Watched, capability: str) -> None:
    watched.lacking = {capability}
    fit = StoreFitness(watched)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=rf"lacks what Lethe cannot do without \({capability}\)"):
            fit.check(writes=False)
    watched.lacking = set()
    fit.check(writes=False)
    assert watched.probes == 3


def test_missing_optional_capability_is_done_without(watched: Watched) -> None:
    watched.lacking = {"conditional_put"}
    StoreFitness(watched).check(writes=True)


def test_full_store_refuses_who_writes_and_serves_who_reads(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "WRITES_TRIED_EVERY", timedelta(0))
    writer, reader = StoreFitness(watched), StoreFitness(watched)
    writer.check(writes=True)
    reader.check(writes=False)
    watched.is_full = True
    with pytest.raises(UnavailableError, match="QuotaExceeded"):
        writer.check(writes=True)
    reader.check(writes=False)
    watched.is_full = False
    writer.check(writes=True)
