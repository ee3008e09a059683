"""Pages and their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.http.paging import Page, PageTokens
from shared.http.problems import MalformedRequestError
from shared.settings import Settings

TOKENS = PageTokens(b"k" * 32)


@given(scope=st.text(max_size=30), cursor=st.text(max_size=60))
def test_token_gives_back_its_cursor(scope: str, cursor: str) -> None:
    token = TOKENS.sign(scope=scope, cursor=cursor)
    assert TOKENS.read(scope=scope, token=token) == cursor
    assert token.isascii()


def test_no_token_is_the_first_page() -> None:
    assert TOKENS.read(scope="things", token=None) is None


@given(token=st.text(max_size=80))
def test_made_up_token_is_malformed(token: str) -> None:
    with pytest.raises(MalformedRequestError):
        TOKENS.read(scope="things", token=token)


def test_token_of_another_list_or_installation_or_changed_is_malformed() -> None:
    token = TOKENS.sign(scope="things", cursor="thing_1")
    for reader, scope, given_token in [
        (TOKENS, "models", token),
        (PageTokens(b"o" * 32), "things", token),
        (TOKENS, "things", token[:-1] + ("A" if token[-1] != "A" else "B")),
    ]:
        with pytest.raises(MalformedRequestError):
            reader.read(scope=scope, token=given_token)


def test_key_outlives_the_process_and_is_private(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    token = PageTokens.open(settings).sign(scope="things", cursor="thing_1")
    key = tmp_path / "new" / "page-tokens.key"
    assert PageTokens(key.read_bytes()).read(scope="things", token=token) == "thing_1"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["page-tokens.key"]


def test_broken_key_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "page-tokens.key").write_bytes(b"short")
    with pytest.raises(ValueError, match="must hold 32 bytes"):
        PageTokens.open(Settings(home=tmp_path))


def test_last_page_has_no_token() -> None:
    assert Page[int](items=[1]).model_dump(mode="json") == {"items": [1]}
    assert Page[int](items=[1], next_page_token="t").model_dump(mode="json") == {"items": [1], "next_page_token": "t"}
