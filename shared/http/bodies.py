"""What request bodies and queries derive from: nothing is converted, nothing unknown is let in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

# JSON numbers are exact up to here in every client; OpenAPI tools round larger bounds.
MAX_SAFE_INTEGER = 2**53 - 1

Seed = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, description="Where randomness starts; the same seed repeats the same result.")]


class StrictBody(BaseModel):
    """A JSON body: strict types, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def require_unicode(cls, value: Any) -> Any:
        """Refuse text that no file, database or tokenizer takes: JSON can spell halves of characters, and NUL."""
        if not _is_unicode(value):
            raise ValueError("text must be valid Unicode without NUL characters")
        return value


class StrictSpec(BaseModel):
    """What a job is told, as it is kept in its record: frozen, strict types, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StrictQuery(BaseModel):
    """A query string: unknown parameters are refused, values are read from text."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _is_unicode(value: Any) -> bool:
    """Whether all text in a JSON value can be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return "\0" not in value
    if isinstance(value, list):
        return all(map(_is_unicode, value))
    if isinstance(value, BaseModel):  # a nested body that is no StrictBody itself
        return all(map(_is_unicode, value.__dict__.values()))
    if isinstance(value, dict):
        return all(_is_unicode(name) and _is_unicode(inner) for name, inner in value.items())
    return True
