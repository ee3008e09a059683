"""The digest of a body."""

from __future__ import annotations

import pytest

from shared.jobs.idempotency import canonical_digest


def test_digest_ignores_the_order_of_fields_and_nothing_else() -> None:
    assert canonical_digest({"a": 1, "b": [1, 2]}) == canonical_digest({"b": [1, 2], "a": 1})
    assert canonical_digest({"b": [1, 2]}) != canonical_digest({"b": [2, 1]})
    assert canonical_digest({"a": 1}) != canonical_digest({"a": "1"})


def test_digest_is_sha256_of_canonical_json() -> None:
    # printf '{"a":"\xc3\xa9"}' | sha256sum
    assert canonical_digest({"a": "é"}) == "b3a092a6af48807fa9482b2ee140105575daa26d5b24b3c0e60a7e2dee6683b1"


def test_digest_of_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_digest({"a": float("nan")})
