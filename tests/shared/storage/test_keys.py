"""Keys stay inside a store's folder, whatever text comes in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequestError
from shared.storage.keys import KEY_LENGTH_MAX, validate_key, validate_prefix

ROOT = Path("/srv/store")


@given(st.text(alphabet="aZ0._-/\\\n ~ä\0%", max_size=20) | st.text(max_size=20))
def test_accepted_text_is_a_visible_path_below_the_root(text: str) -> None:
    try:
        key = validate_key(text)
    except InvalidRequestError:
        return
    assert key == text
    path = ROOT / key
    assert path.resolve() == path
    assert path.is_relative_to(ROOT)
    assert path != ROOT
    assert not any(part.startswith(".") for part in Path(key).parts)
    assert path.as_posix() == f"{ROOT}/{text}"
    assert re.fullmatch(r"[A-Za-z0-9._/-]+", key)


@pytest.mark.parametrize("key", ["a", "a/b", "datasets/ds_01/part-000.parquet", "a..b", "-", "_", "a" * 200, "/".join(["a"] * 500)])
def test_ordinary_key_is_accepted(key: str) -> None:
    assert validate_key(key) == key


@pytest.mark.parametrize("key", ["a" * 201, "/".join(["a"] * 501), "a\n", "\na", "a/..", "./a", "a/./b"])
def test_odd_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequestError):
        validate_key(key)


def test_longest_key_has_the_stated_length() -> None:
    assert len("/".join(["a"] * 500)) == KEY_LENGTH_MAX - 1


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "a/b/"])
def test_beginning_of_a_key_is_a_prefix(prefix: str) -> None:
    assert validate_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "a//", "..", "../", "a/..", "a/.", "a b", "a\n", "x" * 1001])
def test_what_begins_no_key_is_no_prefix(prefix: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate_prefix(prefix)
    assert caught.value.field == "prefix"
