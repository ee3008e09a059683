"""The commands of the house as a whole: where things are, which ports, what a demo leaves."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import structlog
import typer

from shared.cli import app as module
from shared.cli.app import main, parse_ports
from shared.settings import get_settings
from shared.telemetry import get_logger, lethe_version
from tests.shared.cli.reports import told_story


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lethe", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("text", "ports"), [("8001", [8001, 8002, 8003, 8004]), ("9001,9005,9003,9007", [9001, 9005, 9003, 9007]), ("1, 2, 3, 4", [1, 2, 3, 4])]
)
def test_ports_are_a_first_one_or_all_four(text: str, ports: list[int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,1,2,3", "0", "65533", "-1", "1,2,3,99999"])
def test_ports_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_ports(text)


def test_taken_port_ends_up_with_a_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        others = [str(number) for number in range(21_001, 21_004)]
        assert run(monkeypatch, "up", "--home", str(tmp_path), "--ports", ",".join([*others, str(port)])) == 1
    assert f"Port {port} (mitigator) on 127.0.0.1 is taken" in " ".join(capsys.readouterr().err.split())


def test_demo_writes_report_and_prints_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    services, report, gallery = told_story()
    monkeypatch.setattr(module.LetheClient, "from_settings", lambda _settings: services.client())
    monkeypatch.setattr(module.LetheClient, "wait_until_ready", lambda _client, **_options: None)
    monkeypatch.setattr(module.Story, "run", lambda _story: (report, gallery))
    assert run(monkeypatch, "demo", "--connect", "--home", str(tmp_path / "demo")) == 0
    assert json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))["dataset"] == "ds_1"
    assert (tmp_path / "demo" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    out = capsys.readouterr().out
    assert "copies, canaries mitigated" in out
    assert "guidance_timing (static)" in out
    assert str(tmp_path / "demo" / "report.html") in out


def test_demo_prints_its_report_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    services, report, gallery = told_story()
    monkeypatch.setattr(module.LetheClient, "from_settings", lambda _settings: services.client())
    monkeypatch.setattr(module.LetheClient, "wait_until_ready", lambda _client, **_options: None)
    monkeypatch.setattr(module.Story, "run", lambda _story: (report, gallery))
    assert run(monkeypatch, "demo", "--connect", "--json", "--home", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 0


def test_demo_without_services_to_connect_to_ends_with_three(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for service in ("TRAINER", "SAMPLER", "DETECTOR", "MITIGATOR"):
        monkeypatch.setenv(f"LETHE_{service}_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(module, "_CONNECT_PATIENCE", module.timedelta(0))
    module.get_settings.cache_clear()
    assert run(monkeypatch, "demo", "--connect", "--home", str(tmp_path)) == 3
    module.get_settings.cache_clear()
    assert "Not ready: trainer" in capsys.readouterr().err


def test_password_of_the_database_is_not_shown() -> None:
    assert module._without_password("postgresql://lethe:secret@db/lethe") == "postgresql://lethe:***@db/lethe"
    assert module._without_password("sqlite:////var/lethe.db") == "sqlite:////var/lethe.db"


def test_wrong_option_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "demo", "--patients", "3") == 2


def test_what_is_logged_is_no_part_of_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "app", lambda: get_logger("store").warning("versions are missing"))
    structlog.reset_defaults()
    main()
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["event"]) == ("", "versions are missing")


def test_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == lethe_version()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LETHE_TORCH_THREADS", "quokka", "LETHE_TORCH_THREADS cannot be used: Input should be a valid integer"),
        ("LETHE_TLS_KEY", "/quokka", "LETHE_TLS_CERTIFICATE and LETHE_TLS_KEY come together"),
        ("LETHE_SECRETS", "/no/such/folder", "LETHE_SECRETS names /no/such/folder, which is no folder"),
        ("LETHE_DATABASE_URL", "mysql://user:quokka@host/x", "LETHE_DATABASE_URL names 'mysql'"),
        ("LETHE_DATABASE_URL", "quokka", "LETHE_DATABASE_URL cannot be read"),
    ],
)
def test_setting_that_cannot_be_used_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    assert run(monkeypatch, "key", "list") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"Error: {said}")
    assert "quokka" not in err
    assert len(err.splitlines()) == 1


def test_folder_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "file"))
    get_settings.cache_clear()
    assert run(monkeypatch, "key", "list") == 1
    assert capsys.readouterr().err == f"Error: {tmp_path / 'file'}: File exists.\n"
