"""Grafana's dashboards: what the script writes, panels that ask only for what Lethe tells, and files where Grafana looks for them."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.metrics_in_code import ROOT, unknown_in
from tests.servers.prometheus import promtool

FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"]]
IDS = [f"{name}: {panel['title']}" for name, panel in PANELS]
EXPRESSIONS = [target["expr"] for _, panel in PANELS for target in panel["targets"]]


def script() -> ModuleType:
    """The script that writes the dashboards."""
    spec = importlib.util.spec_from_file_location("write_dashboards", FOLDER / "write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_committed_dashboards_are_what_the_script_writes() -> None:
    module = script()
    assert {board.name: module.as_json(board) for board in module.DASHBOARDS} == DASHBOARDS, "run make dashboards"


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=IDS)
def test_panel_asks_only_for_what_lethe_tells(name: str, panel: dict[str, Any]) -> None:
    del name
    assert panel["targets"] != []
    assert [unknown_in(target["expr"]) for target in panel["targets"]] == [set()] * len(panel["targets"])
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}


def test_promtool_can_read_every_expression(tmp_path: Any) -> None:
    rules = [{"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")} for number, text in enumerate(EXPRESSIONS)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    done = promtool("check", "rules", "panels.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_lie_side_by_side_within_the_grid(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_identities_are_unique() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 4
    for dashboard in DASHBOARDS.values():
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers)


def test_provisioned_data_source_is_the_one_that_panels_name() -> None:
    source = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]
    assert (source["uid"], source["type"], source["url"]) == ("prometheus", "prometheus", "http://prometheus:9090")
