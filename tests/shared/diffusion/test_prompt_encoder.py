"""Measuring prompts with a model's own tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest

from shared.catalog import ModelManifest, new_id
from shared.diffusion.prompt_encoder import open_prompt_encoder
from shared.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.diffusion.model import Model
    from tests.fixtures.models import StockedHome


def test_tokens_are_those_of_the_model(stocked_home: StockedHome, stocked_catalog: Catalog, tiny_model: Model) -> None:
    with mock.patch.object(stocked_catalog, "fetch", side_effect=AssertionError):
        encoder = open_prompt_encoder(stocked_catalog, stocked_home.model.id)
    prompts = ["", "chest X-ray, AP, edema", "chest X-ray " * 60]
    assert encoder.limit == tiny_model.token_limit
    assert list(encoder.count(prompts)) == [len(ids) for ids in tiny_model.tokenizer(prompts)["input_ids"]]
    assert encoder.count(prompts)[0] == 2
    assert encoder.count(prompts)[2] > encoder.limit


def test_unknown_model_is_not_found(stocked_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError):
        open_prompt_encoder(stocked_catalog, new_id("model"))


def test_model_without_tokenizer_is_refused(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    fields = stocked_home.model.model_dump() | {"id": new_id("model"), "files": [], "digest": ""}
    bare = stocked_catalog.commit(ModelManifest.model_validate(fields))
    with pytest.raises(InvalidRequestError, match="has no tokenizer") as caught:
        open_prompt_encoder(stocked_catalog, bare.id)
    assert caught.value.field == "prompt.encoder"
