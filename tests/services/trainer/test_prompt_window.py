"""Prompts beyond the text encoder's window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.trainer.prompt_window import count_long_prompts
from shared.errors import InvalidRequestError

if TYPE_CHECKING:
    from shared.diffusion.model import Model

FITTING = " ".join("7" * 62)
LONG = " ".join("7" * 63)
LONGER = " ".join("7" * 98)


def test_prompts_that_fit_are_none_to_cut(tiny: Model) -> None:
    assert count_long_prompts(tiny, [FITTING, "", "chest X-ray"], truncate=False) == 0


def test_prompts_that_do_not_fit_are_refused_with_their_count_and_no_word_of_them(tiny: Model) -> None:
    with pytest.raises(InvalidRequestError, match=r"3 of 4 prompts have more tokens than the 64 .*longest: 100") as caught:
        count_long_prompts(tiny, [LONG, FITTING, LONG, LONGER], truncate=False)
    assert caught.value.field == "truncate_prompts"
    assert "7 7" not in str(caught.value)


def test_prompts_that_may_be_cut_are_counted(tiny: Model) -> None:
    assert count_long_prompts(tiny, [LONG, FITTING, LONG, LONGER], truncate=True) == 3
    ids = tiny.tokenize([LONGER], truncate=True)[0]
    assert ids.shape == (64,)
    assert int(ids[-1]) == tiny.tokenizer.eos_token_id
    assert ids[:-1].tolist() == tiny.tokenize([FITTING])[0, :-1].tolist()
