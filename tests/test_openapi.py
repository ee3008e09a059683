"""The committed contracts are what the services serve."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from shared.cli.supervisor import SERVICES
from shared.settings import Settings

FOLDER = Path(__file__).parent.parent / "docs" / "openapi"


@pytest.mark.parametrize("service", SERVICES)
def test_committed_schema_is_the_apps_own(service: str, tmp_path: Path) -> None:
    app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path))
    committed = json.loads((FOLDER / f"{service}.json").read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(app.openapi())), (
        f"the contract of the {service} changed; run make openapi and read the difference"
    )


def test_every_committed_schema_belongs_to_a_service() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_headers_that_routes_read_are_in_the_schema(service: str) -> None:
    paths = json.loads((FOLDER / f"{service}.json").read_text(encoding="utf-8"))["paths"]
    for path, methods in paths.items():
        for method, route in methods.items():
            named = {parameter["name"] for parameter in route.get("parameters", []) if parameter["in"] == "header"}
            creates = method == "post" and not path.endswith("/cancel")
            wanted = {"Idempotency-Key"} if creates else {"Last-Event-ID"} if path.endswith("/events") else set()
            assert named == wanted, path
