"""The page of a search: what it says, and that it is one file that nothing gets out of."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest

from services.trainer.search.search_page import render_search
from tests.services.trainer.search.finished import finished
from tests.services.trainer.search.toy import spec_of


def job(state: str = "succeeded", **told: Any) -> Any:
    spec = spec_of(trials=12, **told).model_dump(mode="json")
    spec["training"]["name"] = "ward <a>"
    return SimpleNamespace(id="job_1", spec=spec, state=state, created=datetime(2026, 11, 22, 9, 30, tzinfo=UTC))


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_page_tells_front_recommendation_pictures_and_failures() -> None:
    summary, trials = finished()
    page = render_search(job(), summary, trials)
    told = words(page)
    point = summary["recommended"]
    assert f"Recommended: trial {point['trial']} {point['rule']}" in told
    assert f"{point['values']['memorization']:.4g}" in told
    assert "1 failed" in told
    assert "The loss of step 17 is not a number." in told
    assert "10 finished trials are needed to tell what matters" in told
    assert "memorization less is better finding_agreement more is better" in told
    assert page.count("data:image/png;base64,") == 3
    assert "ward &lt;a&gt;" in page
    assert "<a>" not in page
    assert not re.search(r"(src|href)=\"(?!data:image/png)", page)


def test_page_tells_the_untuned_base_and_the_floors_of_what_was_measured() -> None:
    summary, trials = finished()
    base = {
        "values": {"memorization": 0.125, "finding_agreement": 0.25},
        "intervals": {"memorization": [0.1, 0.2], "finding_agreement": [0, 1]},
    }
    told = words(render_search(job(), summary | {"base": base, "floors": {"finding_agreement": 0.75, "kid": 0.5}}, trials))
    assert "untuned base 0.125 0.1 – 0.2 0.25 0 – 1 mdl_1" in told
    assert "real films 0.75 floor" in told
    told = words(render_search(job(), summary | {"base": None, "floors": {"fid": 0.25}}, trials))
    assert "untuned base" not in told
    assert "floor" not in told


def test_page_of_enough_trials_says_which_choices_matter() -> None:
    summary, trials = finished(trials=14)
    told = words(render_search(job(), summary, trials))
    assert "finished trials are needed" not in told
    assert "learning rate" in told
    assert "down 0.0" in told


def test_page_tells_ranks_filters_and_captions_of_points() -> None:
    varied = {"vary": {"batch_filter": [{"kind": "magnitude"}], "captions": [[{"kind": "random_tokens"}]]}}
    told = words(render_search(job(space="lora", **varied), *finished(space="lora", **varied)))
    assert re.search(r"ranks [248](, [248])*", told)
    assert "batch filter magnitude" in told
    assert "captions random_tokens" in told


@pytest.mark.parametrize("state", ["queued", "running"])
def test_page_of_a_search_without_any_trial_says_what_was_asked_for(state: str) -> None:
    told = words(render_search(job(state, constraints=[{"reward": "copy_rate", "at_most": 0.25}], pruning=None), None, []))
    assert f"{state}, 0 of 12 trials are over" in told
    assert "there is nothing to be seen" in told
    assert "copy_rate ≤ 0.25" in told
    assert "1e-05 to 0.001 in 9 steps" in told
    assert "ended early none" in told


def test_page_of_a_running_search_shows_what_there_is() -> None:
    summary, trials = finished()
    nothing = summary | {"pareto": [], "recommended": None, "hypervolume": []}
    told = words(render_search(job("running"), nothing, trials[-1:]))
    assert "running, 0 of 12 trials are over" in told
    assert "What was tried" in told
    assert "Recommended" not in told
