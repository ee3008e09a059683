"""Fields of a request given on the command line as dotted.name=value, for the many that have no option of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from shared.errors import InvalidRequestError

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any other field of the request; dots lead into objects, values are JSON or plain text."
    ),
]


def assign(body: Mapping[str, Any], assignments: Sequence[str] | None) -> dict[str, Any]:
    """The body with the fields assigned to; the service checks names and values."""
    assigned = json.loads(json.dumps(body))
    for assignment in assignments or ():
        name, separator, text = assignment.partition("=")
        path = name.strip().split(".")
        if not separator or not all(path):
            raise InvalidRequestError("--set takes FIELD=VALUE, such as gates.k_anonymity.k=10.")
        inner = assigned
        for part in path[:-1]:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[path[-1]] = _value(text)
    return dict(assigned)


def _value(text: str) -> Any:
    """What the text says as JSON, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
