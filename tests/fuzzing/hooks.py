"""What schemathesis is told beyond the schemas: the rules of docs/http.md that JSON Schema has no words for."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

# What exists in the home that the services work in, by the field or noun that asks for it.
KNOWN = json.loads(os.environ.get("FUZZING_KNOWN", "{}"))
# What makes a generation long, and how much of it is drawn here.
LONG = {"steps": 2, "images_per_prompt": 1, "seeds_per_prompt": 2}
# Pydantic's name of what Lethe's own rules raise: one field against another, or against what the text encoder takes.
RULE = "value_error"


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every other time, ask for something that exists."""
    noun = path_of(context).split("/")[2]
    if path_parameters and noun in KNOWN and len(str(path_parameters.get("id", ""))) % 2:
        return path_parameters | {"id": KNOWN[noun]}
    return path_parameters


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Write whole numbers as integers (to JSON Schema 3.0 is one, to the contract it is none); let small drawings succeed."""
    body = whole(body)
    if isinstance(body, dict) and path_of(context) in {"/v1/generations", "/v1/screenings", "/v1/matches"}:
        for field in ("model", "dataset"):
            if isinstance(name := body.get(field), str) and len(name) % 2:
                body[field] = KNOWN.get(field, name)
        body |= {name: most for name, most in LONG.items() if isinstance(told := body.get(name), int) and told > most and told < 100}
    return body


@schemathesis.check
def what_the_schema_allows_is_accepted(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """schemathesis' own check, but for page tokens, which are signed, and for rules between fields."""
    if response.status_code == 400 and "page_token" in (case.query or {}):
        return None
    if response.status_code == 422 and all(error["type"] == RULE for error in response.json().get("errors", [])):
        return None
    return positive_data_acceptance(context, response, case)


def path_of(context: schemathesis.HookContext) -> str:
    """The path of the operation that is asked."""
    assert context.operation is not None
    return context.operation.path


def whole(value: Any) -> Any:
    """The same JSON without whole floats."""
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
