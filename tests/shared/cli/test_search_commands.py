"""Searches on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.shared.cli.conftest import Lethe


def test_search_is_started_followed_and_says_what_it_recommends(lethe: Lethe) -> None:
    assert lethe("search", "start", "ds_1", "mdl_0", "--trials", "4", "--steps", "9") == 0
    asked = lethe.asked("/v1/searches")
    assert asked["training"] == {"name": "search", "dataset": "ds_1", "base": "mdl_0", "steps": 9, "batch_size": 16}
    assert (asked["space"], asked["trials"], asked["parallel"], asked["sampler"], asked["seed"]) == ("svdiff", 4, 1, "tpe", 0)
    assert "objectives" not in asked  # the service's own
    assert "2 succeeded, 1 pruned, 1 failed" in lethe.out
    assert "trial 1: svdiff at 0.0001, memorization 0.25, fid 7.5" in lethe.out
    assert "Search job_3: succeeded, 4 of 4 trials are over" in lethe.err


def test_search_takes_objectives_and_any_other_field(lethe: Lethe) -> None:
    arguments = ["--objective", "copy_rate", "--objective", "kid", "--set", "training.weight_decay=0", "--set", "pruning=null"]
    assert lethe("search", "start", "ds_1", "mdl_0", *arguments, "--json") == 0
    asked = lethe.asked("/v1/searches")
    assert (asked["objectives"], asked["training"]["weight_decay"], asked["pruning"]) == (["copy_rate", "kid"], 0, None)
    assert json.loads(lethe.out)["result"]["recommended"]["trial"] == 1
    assert not lethe.err


def test_search_can_be_left_alone(lethe: Lethe) -> None:
    assert lethe("search", "start", "ds_1", "mdl_0", "--no-wait") == 0
    assert lethe.services.asked["GET /v1/searches/job_3"] == 0
    assert "job_3" in lethe.out


def test_trials_are_listed_with_masks_figures_and_marks(lethe: Lethe) -> None:
    assert lethe("search", "trials", "job_3") == 0
    rows = {line.split()[1]: line for line in lethe.out.splitlines()[1:] if line[0] in "●★"}
    assert "■■" in rows["0"]
    assert "3.25" in rows["0"]
    assert rows["1"].startswith("★")
    assert "pruned at 30" in lethe.out
    assert "(0.75)" in lethe.out
    assert lethe("search", "trials", "job_3", "--json") == 0
    assert [trial["state"] for trial in json.loads(lethe.out)] == ["succeeded", "succeeded", "pruned", "failed"]


def test_searches_are_shown_listed_and_cancelled(lethe: Lethe) -> None:
    assert lethe("search", "show", "job_3") == 0
    assert "because" in lethe.out
    assert "memorization 0.125, fid 44" in lethe.out
    assert "fid 1.5; better cannot be told apart" in lethe.out
    assert lethe("search", "show", "job_3", "--json") == 0
    assert json.loads(lethe.out)["id"] == "job_3"
    assert lethe("search", "list") == 0
    assert "4 of 4" in lethe.out
    assert lethe("search", "list", "--json") == 0
    assert len(json.loads(lethe.out)) == 1
    assert lethe("search", "cancel", "job_3") == 0
    assert lethe.services.asked["POST /v1/searches/job_3/cancel"] == 1


def test_point_is_applied_with_what_was_said_and_nothing_else(lethe: Lethe) -> None:
    assert lethe("search", "apply", "job_3", "--dataset", "ds_2", "--trial", "0", "--set", "batch_filter=null", "--json") == 0
    asked = lethe.asked("/v1/searches/job_3/apply")
    assert asked == {"training": {"name": "model", "dataset": "ds_2", "batch_filter": None}, "trial": 0}
    assert json.loads(lethe.out)["result"]["model"] == "mdl_1"


def test_report_is_written(lethe: Lethe) -> None:
    assert lethe("search", "report", "job_3", "--out", "found.html") == 0
    assert Path("found.html").read_text(encoding="utf-8") == "<html>front</html>"
