"""Ids are unique, safe in keys and sort by the time they were made."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.catalog import ids
from shared.catalog.ids import PREFIXES, Prefixed, is_id, new_id, new_id_like
from shared.storage import validate_key


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("dataset", "ds_"), ("model", "mdl_"), ("calibration", "cal_"), ("gallery", "gal_"), ("generation", "gen_"), ("job", "job_")],
)
def test_new_id_has_the_prefix_of_its_kind(kind: Prefixed, prefix: str) -> None:
    made = new_id(kind)
    assert made.startswith(prefix)
    assert len(made) == len(prefix) + 26
    assert validate_key(made) == made
    assert [other for other in PREFIXES if is_id(other, made)] == [kind]


def test_id_like_another_is_of_its_kind() -> None:
    known = new_id("calibration")
    assert is_id("calibration", new_id_like(known))
    assert new_id_like(known) != known


def test_later_id_sorts_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_id("model") for _ in range(2000)]
    assert made == sorted(set(made))
    later = time.time_ns() + 5_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert new_id("model") > made[-1]


def test_clock_that_steps_back_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id("job")
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert new_id("job") > before


def test_id_opens_with_its_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_latest", 0)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000 * 33)
    assert new_id("job").startswith("job_0000000011")


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(max_workers=8) as threads:
        made = list(threads.map(lambda _: new_id("generation"), range(4000)))
    assert len(set(made)) == 4000


@pytest.mark.parametrize("text", ["", "mdl", "mdl_", "ds_1", "mdl_../x", "mdl_A", "mdl_a/b", "mdl_a\n", "mdl_" + "a" * 41, "_a"])
def test_text_of_another_shape_is_no_model_id(text: str) -> None:
    assert not is_id("model", text)
