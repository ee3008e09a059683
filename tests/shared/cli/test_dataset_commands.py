"""Data sets on the command line: what is asked of the trainer, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path

from tests.shared.cli.conftest import Lethe


def test_dataset_is_registered_and_waited_for(lethe: Lethe) -> None:
    code = lethe(
        "dataset", "register", "ward", "--uri", "file:///data", "--reports-csv", "reports.csv", "--template", "impression", "--json"
    )
    assert code == 0
    assert json.loads(lethe.out)["id"] == "ds_1"
    assert lethe.asked("/v1/datasets") == {
        "name": "ward",
        "source": {"format": "chexpert", "uri": "file:///data", "reports_csv": "reports.csv"},
        "image_size": 64,
        "prompt": {"template": "impression"},
        "control_fraction": 0.2,
        "canaries": None,
        "seed": 0,
    }


def test_phantom_is_registered_with_canaries(lethe: Lethe) -> None:
    assert lethe("dataset", "register", "p", "--format", "phantom", "--patients", "30", "--canaries", "3") == 0
    assert lethe.asked("/v1/datasets")["source"] == {"format": "phantom", "patients": 30}
    assert lethe.asked("/v1/datasets")["canaries"] == {"count": 3, "repeats": 40}
    assert "ds_1" in lethe.out


def test_data_sets_are_listed_and_shown(lethe: Lethe) -> None:
    assert lethe("dataset", "list") == 0
    assert "ward" in lethe.out
    assert lethe("dataset", "list", "--json") == 0
    assert [item["id"] for item in json.loads(lethe.out)] == ["ds_1"]
    assert lethe("dataset", "show", "ds_1") == 0
    assert "counts" in lethe.out


def test_fields_without_an_option_are_assigned(lethe: Lethe) -> None:
    fields = ("--set", "gates.k_anonymity.k=10", "--set", "prompt.uncertain=mixed", "--set", 'views=["AP"]')
    assert lethe("dataset", "register", "m", "--format", "mimic-cxr-jpg", "--uri", "file:///m", *fields) == 0
    asked = lethe.asked("/v1/datasets")
    assert asked["source"] == {"format": "mimic-cxr-jpg", "uri": "file:///m"}
    assert (asked["gates"], asked["views"]) == ({"k_anonymity": {"k": 10}}, ["AP"])
    assert asked["prompt"] == {"template": "findings", "uncertain": "mixed"}


def test_page_of_a_data_set_is_written(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("dataset", "page", "ds_1", "--out", "ward.html") == 0
    assert (tmp_path / "ward.html").read_text() == "<html>ds_1</html>"
    assert "ward.html" in lethe.out
