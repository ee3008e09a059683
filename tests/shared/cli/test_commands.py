"""Commands against services: what they ask, what they print, and how they end."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from shared.cli.app import main
from shared.cli.commands import parse_parameters, read_prompts
from shared.errors import InvalidRequestError
from shared.settings import get_settings
from tests.shared.cli.conftest import Lethe
from tests.shared.cli.fake_services import REFUSED_PROMPT


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
    get_settings.cache_clear()
    monkeypatch.setattr(sys, "argv", ["lethe", "screen", "mdl_1", "a"])
    with pytest.raises(SystemExit) as ended:
        main()
    get_settings.cache_clear()
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
