"""What is kept of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.auditing.prompt_marks import mark_prompts
from shared.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_mark_recognises_a_prompt_and_does_not_tell_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first, second, third = mark_prompts(["chest X-ray", "chest X-ray", "chest x-ray"], settings)
    assert first == second != third
    assert first["length"] == 11
    assert "chest" not in str(first)
    assert len(str(first["hmac"])) == 64


def test_marks_of_two_installations_cannot_be_compared(tmp_path: Path) -> None:
    (first,) = mark_prompts(["chest X-ray"], Settings(home=tmp_path / "a"))
    (second,) = mark_prompts(["chest X-ray"], Settings(home=tmp_path / "b"))
    assert first["hmac"] != second["hmac"]
