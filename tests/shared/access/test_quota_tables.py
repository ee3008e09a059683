"""The table of usage is made by its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect

from shared.access.quota_tables import QUOTA_SCHEMA
from shared.database import Database, missing_steps, prepare_schema

if TYPE_CHECKING:
    from pathlib import Path


def test_schema_makes_its_table(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'lethe.db'}")
    prepare_schema(database.engine, QUOTA_SCHEMA)
    assert missing_steps(database.engine, QUOTA_SCHEMA) == 0
    assert inspect(database.engine).get_pk_constraint("quota_usage")["constrained_columns"] == [
        "caller",
        "meter",
        "window_start",
        "subject",
    ]
    database.close()
