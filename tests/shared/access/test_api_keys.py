"""API keys as text."""

from __future__ import annotations

import base64

import pytest

from shared.access.api_keys import fresh_key, hash_of, prefix_of


def test_fresh_key_holds_256_random_bits_behind_its_public_prefix() -> None:
    start, prefix, secret = fresh_key().split("_", 2)
    assert start == "lethe"
    assert len(bytes.fromhex(prefix)) == 6
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32


def test_keys_differ() -> None:
    assert len({fresh_key() for _ in range(100)}) == 100


def test_prefix_is_read_from_a_whole_key_only() -> None:
    key = fresh_key()
    assert prefix_of(key) == key[6:18]
    assert prefix_of(key + "x") is None
    assert prefix_of(key[:-1]) is None
    assert prefix_of(f"{key}\n") is None


@pytest.mark.parametrize("text", ["", "lethe_", "lethe__", "lethe_0123456789ab_ü", "eyJhbGciOiJub25lIn0.e30."])
def test_other_text_has_no_prefix(text: str) -> None:
    assert prefix_of(text) is None


def test_hash_depends_on_key_pepper_and_grants() -> None:
    key, other = fresh_key(), fresh_key()
    hashes = {hash_of(key, pepper=b"a"), hash_of(key, pepper=b"b"), hash_of(other, pepper=b"a"), hash_of(key, pepper=b"a", grants="more")}
    assert len(hashes) == 4
    assert {len(kept) for kept in hashes} == {32}
    assert hash_of(key, pepper=b"a") in hashes
