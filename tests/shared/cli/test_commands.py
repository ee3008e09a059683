"""Commands against services: what they ask, what they print, and how they end."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.cli import commands, console
from shared.cli.app import main
from shared.cli.commands import parse_parameters, read_prompts
from shared.errors import InvalidRequestError
from tests.shared.cli.fake_services import REFUSED_PROMPT, FakeServices


class Lethe:
    """Runs the command line in this process against stand-in services."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.services = FakeServices()
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""
        monkeypatch.setattr(commands, "_client", self.services.client)

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["lethe", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def asked(self, path: str) -> dict[str, Any]:
        return self.services.bodies[path][0]


@pytest.fixture
def lethe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Lethe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.OUT, "width", 200)
    return Lethe(monkeypatch, capsys)


def test_dataset_is_registered_and_waited_for(lethe: Lethe) -> None:
    code = lethe(
        "dataset", "register", "ward", "--uri", "file:///data", "--reports-csv", "reports.csv", "--template", "impression", "--json"
    )
    assert code == 0
    assert json.loads(lethe.out)["id"] == "ds_1"
    assert lethe.asked("/v1/datasets") == {
        "name": "ward",
        "source": {"format": "chexpert", "csv": "train.csv", "uri": "file:///data", "reports_csv": "reports.csv"},
        "image_size": 64,
        "prompt": {"template": "impression", "uncertain": "ignore"},
        "views": ["frontal"],
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


def test_training_is_started_and_names_its_model(lethe: Lethe) -> None:
    assert lethe("train", "ds_1", "--steps", "5", "--prompt-dropout", "0", "--json") == 0
    assert json.loads(lethe.out)["result"]["model"] == "mdl_1"
    asked = lethe.asked("/v1/training-jobs")
    assert (asked["dataset"], asked["steps"], asked["prompt_dropout"], asked["base"]) == ("ds_1", 5, 0.0, None)


def test_calibration_is_made(lethe: Lethe) -> None:
    assert lethe("calibrate", "mdl_1", "ds_1", "--false-positive-rate", "0.05") == 0
    asked = lethe.asked("/v1/calibrations")
    assert (asked["model"], asked["dataset"], asked["false_positive_rate"]) == ("mdl_1", "ds_1", 0.05)


def test_screening_that_allows_everything_ends_well(lethe: Lethe) -> None:
    assert lethe("screen", "mdl_1", "control film 3") == 0
    assert "allow" in lethe.out


def test_screening_that_flags_a_prompt_ends_with_four(lethe: Lethe) -> None:
    assert lethe("screen", "mdl_1", "control film 3", "canary film 1", "--explain", "--json") == 4
    assert [result["decision"] for result in json.loads(lethe.out)["results"]] == ["allow", "mitigate"]


def test_screening_shows_words_when_asked(lethe: Lethe) -> None:
    assert lethe("screen", "mdl_1", "canary film 1", "--explain") == 4
    assert "canary 33%" in lethe.out


def test_samples_are_written_as_files(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("sample", "mdl_1", "control film 3", "--images", "2", "--seed", "7", "--out", "drawn") == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["prompt-0-seed-7.png", "prompt-0-seed-8.png"]
    assert (tmp_path / "drawn" / "prompt-0-seed-7.png").read_bytes().startswith(b"\x89PNG")
    assert "mitigation" not in lethe.asked("/v1/generations")


def test_mitigated_images_come_with_their_evidence(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("mitigate", "mdl_1", "canary film 1", "--parameters", '{"a": 1}', "--strategy", "prompt_generalisation") == 0
    assert lethe.asked("/v1/generations")["mitigation"] == {"strategy": "prompt_generalisation", "parameters": {"a": 1}}
    assert (tmp_path / "images" / "prompt-0-seed-0.png").exists()
    assert "3.000 → 1.000" in lethe.out


def test_refused_mitigation_ends_with_four_and_writes_nothing(lethe: Lethe, tmp_path: Path) -> None:
    assert lethe("mitigate", "mdl_1", REFUSED_PROMPT) == 4
    assert "refused" in lethe.out
    assert "No strategy helped." in lethe.err
    assert not (tmp_path / "images").exists()


def test_refused_mitigation_is_a_problem_for_programs(lethe: Lethe) -> None:
    assert lethe("mitigate", "mdl_1", REFUSED_PROMPT, "--json") == 4
    assert json.loads(lethe.out)["type"] == "urn:lethe:problem:mitigation-insufficient"


def test_answers_for_programs_hold_the_images(lethe: Lethe) -> None:
    assert lethe("sample", "mdl_1", "control film 3", "--json") == 0
    assert json.loads(lethe.out)["images"][0]["seed"] == 0
    assert lethe("mitigate", "mdl_1", "canary film 1", "--json") == 0
    assert json.loads(lethe.out)["images"][0]["evidence"]["score_after"] == 1.0


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_parameters_that_are_no_object_are_wrongly_asked(lethe: Lethe, text: str) -> None:
    assert lethe("mitigate", "mdl_1", "a", "--parameters", text) == 2


def test_service_that_is_away_ends_with_three(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LETHE_DETECTOR_URL", "http://127.0.0.1:9")
    commands.get_settings.cache_clear()
    monkeypatch.setattr(sys, "argv", ["lethe", "screen", "mdl_1", "a"])
    with pytest.raises(SystemExit) as ended:
        main()
    commands.get_settings.cache_clear()
    assert ended.value.code == 3
    assert "detector at http://127.0.0.1:9" in capsys.readouterr().err


def test_prompts_are_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\n second \n"))
    assert read_prompts(["-"]) == ["first", " second "]
    assert read_prompts(["a", "-"]) == ["a", "-"]


def test_empty_standard_input_is_wrongly_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(InvalidRequestError):
        read_prompts(["-"])


def test_parameters_are_a_json_object() -> None:
    assert parse_parameters('{"variant": "static"}') == {"variant": "static"}
