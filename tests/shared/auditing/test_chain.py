"""Hashes that nobody makes without the key."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shared.auditing.chain import GENESIS, Chain
from tests.shared.auditing.conftest import KEY, make_event


def test_event_is_genuine_under_its_own_key_alone() -> None:
    chained = Chain(KEY).link(make_event(), sequence=1, previous=GENESIS)
    assert chained.previous == GENESIS
    assert len(chained.hash) == 64
    assert Chain(KEY).is_genuine(chained)
    assert not Chain(bytes(32)).is_genuine(chained)


@given(
    sequence=st.integers(min_value=-(2**63), max_value=2**63 - 1),
    previous=st.text(alphabet="0123456789abcdef\n", min_size=60, max_size=64),
    content=st.text(max_size=300),
    fingerprint=st.text(max_size=64),
)
def test_whatever_is_changed_the_hash_does_not_fit(sequence: int, previous: str, content: str, fingerprint: str) -> None:
    chain = Chain(KEY)
    written = chain.link(make_event(), sequence=3, previous="ab" * 32)
    for changed in (
        replace(written, sequence=sequence),
        replace(written, previous=previous),
        replace(written, content=content),
        replace(written, hash=fingerprint),
    ):
        assert chain.is_genuine(changed) is (changed == written)
