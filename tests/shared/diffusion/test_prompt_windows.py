"""Prompts against a model's window, without the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from shared.catalog import new_id
from shared.diffusion import prompt_windows
from shared.diffusion.prompt_windows import PromptWindows
from shared.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.diffusion.model import Model
    from tests.fixtures.models import StockedHome


def test_refusal_is_that_of_the_model_itself(stocked_home: StockedHome, stocked_catalog: Catalog, tiny_model: Model) -> None:
    prompts = ["", "chest X-ray", "edema " * 90, "edema " * 100]
    with mock.patch.object(stocked_catalog, "fetch", side_effect=AssertionError), pytest.raises(InvalidRequestError) as told:
        PromptWindows(stocked_catalog).require_fit(stocked_home.model.id, prompts)
    with pytest.raises(InvalidRequestError) as expected:
        tiny_model.tokenize(prompts)
    assert (str(told.value), told.value.field) == (str(expected.value), expected.value.field)
    assert told.value.field == "prompts.2"


def test_unknown_model_is_not_found(stocked_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError):
        PromptWindows(stocked_catalog).require_fit(new_id("model"), ["edema"])


def test_tokenizer_is_read_once_and_the_oldest_is_given_up(
    stocked_home: StockedHome, stocked_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_windows, "CAPACITY", 1)
    windows, first = PromptWindows(stocked_catalog), stocked_home.model.id
    opened: list[str] = []

    def count(_catalog: Catalog, model_id: str) -> object:
        opened.append(model_id)
        return prompt_windows.PromptEncoder(lambda prompts: [3 for _ in prompts], 64, lambda prompts: [[0] * 64 for _ in prompts])

    monkeypatch.setattr(prompt_windows, "open_prompt_encoder", count)
    for model_id in (first, first, "mdl_other", first):
        windows.require_fit(model_id, ["edema"])
    assert opened == [first, "mdl_other", first]


def test_many_threads_measure_at_once(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    windows = PromptWindows(stocked_catalog)

    def misfit(number: int) -> str | None:
        try:
            windows.require_fit(stocked_home.model.id, ["edema"] * 5 + ["edema " * 90] * (number % 2))
        except InvalidRequestError as error:
            return error.field
        return None

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(misfit, range(100))) == [None, "prompts.5"] * 50


def test_prompts_that_draw_the_same_image_have_the_same_token_ids(
    stocked_home: StockedHome, stocked_catalog: Catalog, tiny_model: Model
) -> None:
    windows = PromptWindows(stocked_catalog)
    same = ["left pleural effusion, 96025", "LEFT  pleural\teffusion , 9 6 0 2 5", "left pleural effusion, 96025<|endoftext|>"]
    read = windows.token_ids(stocked_home.model.id, same)
    assert read == [read[0]] * len(same)
    assert read == tiny_model.tokenize(same).tolist()
    assert windows.token_ids(stocked_home.model.id, ["right pleural effusion, 96025"]) != read[:1]
    with pytest.raises(InvalidRequestError):
        windows.token_ids(stocked_home.model.id, ["edema " * 90])
