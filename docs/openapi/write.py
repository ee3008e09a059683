"""Write the schema of each service, as its app gives it, beside this file; no service needs to run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from shared.cli.supervisor import SERVICES

HERE = Path(__file__).parent


def main() -> None:
    """One JSON file a service, keys in order, so that a change shows as a small difference."""
    for service in SERVICES:
        schema = importlib.import_module(f"services.{service}.app").create_app().openapi()
        (HERE / f"{service}.json").write_text(json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
