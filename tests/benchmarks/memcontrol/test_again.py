"""Of each contender its chosen point is measured again, of ours the front; choices are trained as they are at the other site."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.memcontrol import again as module
from benchmarks.memcontrol.again import judge, read_again, transfer, transferred
from benchmarks.memcontrol.contenders import FIXED, OURS, SEARCHES
from benchmarks.memcontrol.course import course_path
from benchmarks.memcontrol.unit import Outcome, Unit, write_whole
from tests.benchmarks.memcontrol.made_up import Points, course, site_in
from tests.services.trainer.search.toy import estimate

if TYPE_CHECKING:
    from pathlib import Path

POINTS: Points = [(0.5, 0.40), (0.3, 0.41), (0.9, 0.9), (0.1, 0.50)]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which trainings were looked at again, and where."""
    seen: list[tuple[str, str]] = []

    def look(unit: Unit) -> dict[str, object]:
        seen.append((unit.site.anatomy, unit.spec.name))
        return {"memorization": estimate(0.7), "fid": estimate(0.6)}

    values = {"memorization": estimate(0.2), "fid": estimate(0.3)}
    monkeypatch.setattr(module, "judged", look)
    monkeypatch.setattr(module, "outcome_of", lambda unit: Outcome(unit.spec.steps, 1.0, 5, 0.1, {}, values))
    return seen


def test_chosen_point_comes_first_and_of_ours_alone_the_others_follow(tmp_path: Path, looked_at: list[tuple[str, str]]) -> None:
    site = site_in(tmp_path)
    for contender in (OURS, SEARCHES[1]):
        write_whole(course_path(site, contender), asdict(course(contender.name, POINTS)))
        assert judge(site, contender) == read_again(site, contender)
    names = [name for _, name in looked_at]
    assert names == ["0.3 0.41", "0.5 0.4", "0.1 0.5", "0.3 0.41"]
    first = read_again(site, OURS)[0]
    assert (first.attempt.losses, first.judged) == ([0.3, 0.41], {"memorization": 0.7, "fid": 0.6})


def test_choice_is_trained_at_the_other_site_as_it_is(tmp_path: Path, looked_at: list[tuple[str, str]]) -> None:
    here, there = site_in(tmp_path), replace(site_in(tmp_path), anatomy="knee")
    write_whole(course_path(here, OURS), asdict(course(OURS.name, POINTS)))
    (found,) = transfer(here, there, OURS)
    assert looked_at == [("knee", "0.3 0.41")]
    assert found.attempt.losses == [0.2, 0.3]
    assert read_again(there, OURS) == [found]


def test_ours_and_the_fixed_choices_are_taken_along() -> None:
    assert transferred() == [OURS, *FIXED]
