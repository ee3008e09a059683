"""Models on the command line."""

from __future__ import annotations

import json

from tests.shared.cli.conftest import Lethe


def test_training_is_started_and_names_its_model(lethe: Lethe) -> None:
    assert lethe("train", "ds_1", "--steps", "5", "--prompt-dropout", "0", "--json") == 0
    assert json.loads(lethe.out)["result"]["model"] == "mdl_1"
    asked = lethe.asked("/v1/training-jobs")
    assert (asked["dataset"], asked["steps"], asked["prompt_dropout"], asked["base"]) == ("ds_1", 5, 0.0, None)


def test_options_of_fine_tuning_are_assigned(lethe: Lethe) -> None:
    assert lethe("train", "ds_1", "--base", "mdl_0", "--set", "precision=bf16", "--set", "min_snr_gamma=5") == 0
    asked = lethe.asked("/v1/training-jobs")
    assert (asked["base"], asked["precision"], asked["min_snr_gamma"]) == ("mdl_0", "bf16", 5)


def test_model_folder_is_imported_and_waited_for(lethe: Lethe) -> None:
    assert lethe("model", "import", "sd", "--uri", "file:///models/sd", "--json") == 0
    assert lethe.asked("/v1/models/import") == {"name": "sd", "uri": "file:///models/sd"}
    assert json.loads(lethe.out)["result"]["model"] == "mdl_2"


def test_model_is_shown_as_its_manifest(lethe: Lethe) -> None:
    assert lethe("model", "show", "mdl_2") == 0
    assert json.loads(lethe.out)["name"] == "sd"


def test_models_are_listed(lethe: Lethe) -> None:
    assert lethe("model", "list") == 0
    (row,) = lethe.out.splitlines()[2:]
    assert [cell.strip() for cell in row.split("│")] == ["mdl_1", "ward", "tiny", "ds_1", ""]
    assert lethe("model", "list", "--json") == 0
    assert json.loads(lethe.out) == [{"id": "mdl_1", "name": "ward", "architecture": "tiny", "dataset": "ds_1", "base": None}]
