"""The SQL database that all owners of tables share: connections, transactions, versioned schemas."""

from shared.database.engine import Database, open_engine, writing
from shared.database.moments import UtcMicroseconds
from shared.database.schema import Schema, missing_steps, prepare_embedded, prepare_schema

__all__ = ["Database", "Schema", "UtcMicroseconds", "missing_steps", "open_engine", "prepare_embedded", "prepare_schema", "writing"]
