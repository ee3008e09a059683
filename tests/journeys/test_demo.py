"""The whole system: a rehearsal of the demo through four real services, and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.cli.report import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a demo that went to its end."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-c", "from shared.cli import main; main()", "demo", "--quick", "--home", str(folder), "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert str(folder / "report.html") in done.stdout.replace("\n", "")
    return folder


@pytest.fixture(scope="module")
def document(home: Path) -> dict[str, Any]:
    return dict(json.loads((home / "report.json").read_text(encoding="utf-8")))


def test_report_is_whole_and_every_figure_lies_within_its_interval(document: dict[str, Any]) -> None:
    report = Report.model_validate(document)
    assert (report.seed, report.quick) == (5, True)
    figures = [
        report.detection.auc,
        report.detection.canaries_flagged,
        report.detection.controls_flagged,
        report.copy_rate.canary_plain,
        report.copy_rate.control_plain,
        report.fidelity.prompt_agreement.canary_plain,
        report.fidelity.prompt_agreement.control_plain,
    ]
    for figure in figures:
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9


def test_rates_count_the_images_of_the_prompts(document: dict[str, Any]) -> None:
    report = Report.model_validate(document)
    canaries = [row for row in report.prompts if row.group == "canary"]
    controls = [row for row in report.prompts if row.group == "control"]
    assert len(canaries) == report.settings["canaries"]
    assert report.films["canary"] == len(canaries)
    assert all(len(row.plain) == report.settings["images_per_canary"] for row in canaries)
    assert report.copy_rate.canary_plain.n == sum(len(row.plain) for row in canaries)
    assert report.copy_rate.control_plain.n == sum(len(row.plain) for row in controls)
    assert report.copy_rate.canary_mitigated.n == sum(len(row.mitigated) for row in canaries)
    assert all(bool(row.mitigated) != bool(row.refused) for row in canaries)
    assert all(draw.verdict != "copy" for row in canaries for draw in row.mitigated)


def test_canary_words_carry_the_whole_score(document: dict[str, Any]) -> None:
    report = Report.model_validate(document)
    for row in report.prompts:
        if row.group == "canary":
            assert sum(word.weight for word in row.words) == pytest.approx(1, abs=1e-3)
            assert " ".join(word.text for word in row.words) == row.prompt
        else:
            assert row.words == []


def test_control_patients_were_never_trained_on(document: dict[str, Any]) -> None:
    report = Report.model_validate(document)
    groups = {group: {row.patient for row in report.prompts if row.group == group} for group in ("canary", "control")}
    assert groups["canary"]
    assert groups["control"]
    assert not groups["canary"] & groups["control"]


def test_every_strategy_of_the_mitigator_has_its_row(document: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in document["strategies"]}
    assert next(iter(rows)) == "plain"
    names = {name.partition(" ")[0] for name in rows}
    assert names == {"plain", "prompt_generalisation", "embedding_optimisation", "guidance_timing", "auto"}
    assert all(row["images"] == row["released"] + row["refused"] for row in rows.values())
    assert all(0 <= row["copies"] <= row["images"] for row in rows.values())


def test_times_add_up(document: dict[str, Any]) -> None:
    seconds = dict(document["seconds"])
    total = seconds.pop("total")
    assert {"dataset", "train", "calibrate", "screen", "sample", "mitigate"} <= set(seconds)
    assert sum(seconds.values()) == pytest.approx(total, rel=0.1, abs=5)


def test_page_shows_pictures_and_warns_that_it_is_a_rehearsal(home: Path) -> None:
    page = (home / "report.html").read_text(encoding="utf-8")
    assert "This is a rehearsal" in page
    assert page.count('alt="Training film') == 3


def test_data_set_lies_on_disk_as_chexpert_does(home: Path) -> None:
    tables = list((home / "phantom").rglob("train.csv"))
    assert tables
    header = tables[0].read_text(encoding="utf-8").partition("\n")[0]
    assert header.startswith("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding")


def test_no_log_quotes_a_prompt(home: Path, document: dict[str, Any]) -> None:
    logs = "".join(path.read_text(encoding="utf-8") for path in (home / "logs").iterdir())
    assert logs
    assert not [row["record"] for row in document["prompts"] if row["prompt"] in logs]


def test_nothing_is_left_running(home: Path) -> None:
    left = [process.info["pid"] for process in psutil.process_iter(["pid", "cmdline"]) if uses(process, home)]
    assert left == []


def uses(process: psutil.Process, home: Path) -> bool:
    """Whether a process was started for this home folder."""
    try:
        return process.environ().get("LETHE_HOME") == str(home.resolve())
    except psutil.Error:
        return False
