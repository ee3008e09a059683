"""Prometheus' configuration and alerts: promtool accepts them, each alert has cases and a runbook, none asks for what nobody tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.cli.supervisor import SERVICES
from shared.settings import Settings
from tests.metrics_in_code import ROOT, unknown_in
from tests.servers.prometheus import promtool

FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
NAMES = [alert["alert"] for alert in ALERTS]
CASES = yaml.safe_load((FOLDER / "tests.yml").read_text(encoding="utf-8"))["tests"]
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")


def checks_of(alert: str) -> list[dict[str, Any]]:
    """Every look at an alert in the cases."""
    return [check for case in CASES for check in case["alert_rule_test"] if check["alertname"] == alert]


def test_promtool_accepts_rules_and_cases() -> None:
    for arguments in (["check", "rules", "rules.yml"], ["test", "rules", "tests.yml"]):
        done = promtool(*arguments, folder=FOLDER)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    """With the credential where the configuration looks for it, which promtool wants to see."""
    configuration = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "key").write_text("secret", encoding="utf-8")
    (tmp_path / "rules.yml").write_text((FOLDER / "rules.yml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(configuration.replace("/run/secrets/lethe_metrics_key", "key"), encoding="utf-8")
    done = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_configuration_scrapes_every_service_at_its_port_with_a_credential() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    lethe = next(job for job in jobs if job["job_name"] == "lethe")
    targets = {target["labels"]["service"]: target["targets"] for target in lethe["static_configs"]}
    ports = {service: getattr(Settings(), f"{service}_url").rpartition(":")[2] for service in SERVICES}
    assert targets == {service: [f"{service}:{port}"] for service, port in ports.items()}
    assert lethe["authorization"]["type"] == "Bearer"


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_alert_asks_only_for_what_lethe_tells(alert: dict[str, Any]) -> None:
    assert unknown_in(alert["expr"]) == set()


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: dict[str, Any]) -> None:
    fires = {bool(check["exp_alerts"]) for check in checks_of(alert["alert"])}
    assert fires == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_alert_says_how_grave_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/runbooks.md#{alert['alert'].lower()}"


def test_runbooks_have_a_section_for_each_alert_and_no_other() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, flags=re.MULTILINE) == NAMES


def test_names_of_alerts_and_cases_are_unique() -> None:
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names))
    assert len(NAMES) == len(set(NAMES))
