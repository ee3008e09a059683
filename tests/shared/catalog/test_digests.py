"""A digest depends on the content alone."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog.digests import content_digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_digest_is_over_canonical_json() -> None:
    canonical = '{"a":[1,0.5],"b":{"c":"ä","d":null}}'.encode()
    assert content_digest({"b": {"d": None, "c": "ä"}, "digest": "x", "a": [1, 0.5]}) == hashlib.sha256(canonical).hexdigest()


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_digest_survives_storage_and_reordering(content: dict[str, object]) -> None:
    stored = json.loads(json.dumps(dict(reversed(content.items())), indent=2))
    assert content_digest(stored) == content_digest(content)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6), st.text(max_size=8).filter(lambda name: name != "digest"), JSON)
def test_other_content_has_another_digest(content: dict[str, object], name: str, value: object) -> None:
    without = {key: kept for key, kept in content.items() if key not in {name, "digest"}}
    assert content_digest({**without, name: value}) != content_digest(without)
    assert content_digest({**without, name: [value]}) != content_digest({**without, name: value})


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_digest({"loss": float("nan")})
