"""Prompts beyond the text encoder's window."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.trainer import text_pretraining, training, training_jobs
from services.trainer.prompt_window import count_long_prompts
from services.trainer.training_jobs import read_training_set
from shared.catalog import new_id
from shared.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.trainer.training_set import TrainingSet
    from shared.catalog import Catalog, DatasetManifest
    from shared.diffusion.model import Model
    from shared.jobs.context import JobContext
    from tests.fixtures.models import StockedHome

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


@pytest.mark.parametrize("base", [True, False], ids=["with a base", "from scratch"])
def test_training_job_refuses_long_prompts_or_counts_what_it_cuts(
    context: Callable[..., JobContext], stocked_home: StockedHome, monkeypatch: pytest.MonkeyPatch, *, base: bool
) -> None:
    monkeypatch.setattr(training, "AUTOENCODER_STEPS", 1)
    monkeypatch.setattr(text_pretraining, "STEPS", 1)

    def with_long_prompts(dataset: DatasetManifest, catalog: Catalog) -> TrainingSet:
        films = read_training_set(dataset, catalog)
        return replace(films, prompts=[LONGER, *films.prompts[1:]])

    monkeypatch.setattr(training_jobs, "read_training_set", with_long_prompts)
    told = {"name": "a", "dataset": stocked_home.dataset.id, "base": stocked_home.model.id if base else None, "steps": 1, "batch_size": 2}
    with pytest.raises(InvalidRequestError, match="1 of"):
        training_jobs.run_training(context("training", new_id("job"), told))
    result = training_jobs.run_training(context("training", new_id("job"), told | {"truncate_prompts": True}))
    assert result["metrics"]["truncated_prompts"] == 1
