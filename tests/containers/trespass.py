"""Run inside a container: try what its credentials must not be able to do, and print what the store and the database said to each attempt.

Arguments are SQL statements, and `verb bucket prefix` for the first object that the store lists there.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import closing

import psycopg

from shared.errors import UnavailableError
from shared.settings import get_settings
from shared.storage import ObjectStore, open_store


def in_store(verb: str, bucket: str, prefix: str) -> str:
    """The code of the store's refusal."""
    settings = get_settings()
    named = settings.s3_bucket if bucket == "objects" else settings.audit_bucket
    with closing(open_store(settings.model_copy(update={"s3_bucket": named}))) as store:
        found = store.list(prefix=prefix)
        if not found:
            return "nothing there"
        try:
            attempt(store, verb, found[0].key)
        except UnavailableError as error:
            return "".join(re.findall(r"\((\w+)\)", str(error)))
    return f"did {verb} {found[0].key}"


def attempt(store: ObjectStore, verb: str, key: str) -> None:
    """Do one thing to an object."""
    if verb == "read":
        store.get(key=key)
    elif verb == "write":
        store.put(key=key, data=b"trespass")
    else:
        store.delete(key=key)


def in_database(statement: str) -> str:
    """The SQLSTATE of the database's refusal."""
    with psycopg.connect(get_settings().sql_url, autocommit=True) as connection:
        try:
            connection.execute(statement)  # type: ignore[arg-type]
        except psycopg.Error as error:
            return error.sqlstate or "no state"
    return "done"


def outcome(told: str) -> str:
    """What became of one attempt."""
    verb, *rest = told.split(" ")
    return in_store(verb, *rest) if verb in {"read", "write", "delete"} else in_database(told)


sys.stdout.write(json.dumps({told: outcome(told) for told in sys.argv[1:]}))
