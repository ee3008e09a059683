"""Every table of Lethe: the list of all schemas, brought to their newest version by command, or on SQLite at start."""

from __future__ import annotations

from typing import Final

from shared.access.key_tables import ACCESS_SCHEMA
from shared.access.quota_tables import QUOTA_SCHEMA
from shared.auditing import AUDIT_SCHEMA
from shared.database import Database, Schema, missing_steps, prepare_embedded, prepare_schema
from shared.http.kept_answers import ANSWER_SCHEMA
from shared.jobs.tables import JOB_SCHEMA

# Owners of tables append theirs; tables that refer to others come after them.
SCHEMAS: Final[tuple[Schema, ...]] = (JOB_SCHEMA, ACCESS_SCHEMA, AUDIT_SCHEMA, QUOTA_SCHEMA, ANSWER_SCHEMA)


def migrate(database: Database) -> dict[str, int]:
    """Run all steps that have not run yet; answers how many that were, by schema. Safe to repeat, and from several places at once."""
    missing = {schema.name: missing_steps(database.engine, schema) for schema in SCHEMAS}
    for schema in SCHEMAS:
        prepare_schema(database.engine, schema)
    return missing


def migrate_embedded(database: Database) -> None:
    """The same on SQLite, where nobody runs commands; PostgreSQL is left as it is."""
    for schema in SCHEMAS:
        prepare_embedded(database.engine, schema)


def reasons_to_migrate(database: Database) -> list[str]:
    """Why a service on this database is not ready: the schemas that are behind; UnavailableError when the database does not answer."""
    behind = [schema.name for schema in SCHEMAS if missing_steps(database.engine, schema)]
    return [f"the database's tables are behind this version ({', '.join(behind)}); run 'lethe migrate'"] if behind else []
