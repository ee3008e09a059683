"""The SQL database that all owners of tables share: connections, transactions, versioned schemas."""

from shared.database.engine import Database, open_engine, writing
from shared.database.moments import UtcMicroseconds
from shared.database.schema import Schema, missing_steps, prepare_embedded, prepare_schema
from shared.database.services_role import ServicesRole, grant_services, require_lesser, services_role

__all__ = [
    "Database",
    "Schema",
    "ServicesRole",
    "UtcMicroseconds",
    "grant_services",
    "missing_steps",
    "open_engine",
    "prepare_embedded",
    "prepare_schema",
    "require_lesser",
    "services_role",
    "writing",
]
