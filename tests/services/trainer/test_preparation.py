"""What is done to films before anything is learnt from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from services.trainer.preparation import prepare, scrubbed
from services.trainer.prompt_embeddings import PromptEmbeddings
from services.trainer.training_set import TrainingSet
from services.trainer.training_spec import TrainingSpec
from tests.denoisers import tiny_model
from tests.training_films import films

TOLD = ["A ___-year-old woman,  edema", "edema", "Effusion on 2019-05-02. Exam 48213", "___"]
CLEAN = ["A woman, edema", "edema", "Effusion.", ""]


def asked(**changes: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"name": "a", "dataset": "ds_1", **changes})


def told() -> TrainingSet:
    return replace(films(), prompts=TOLD)


def test_without_wishes_films_are_what_they_were() -> None:
    given = told()
    prepared = prepare(given, asked(captions=[{"kind": "multiple"}]))
    assert prepared.films is given
    assert prepared.dropped is None
    assert prepared.metrics == {}


def test_scrub_is_of_every_prompt_and_counted() -> None:
    prepared = prepare(told(), asked(captions=[{"kind": "scrub"}, {"kind": "multiple"}]))
    assert prepared.films.prompts == scrubbed(TOLD) == CLEAN
    assert scrubbed(CLEAN) == CLEAN
    assert prepared.metrics == {"scrubbed_prompts": 3, "emptied_prompts": 1}
    assert prepared.films.repeats.tolist() == told().repeats.tolist()


def test_white_space_alone_is_no_mark() -> None:
    prepared = prepare(replace(films(), prompts=["a  b", "a b", " a b", "a\nb"]), asked(captions=[{"kind": "scrub"}]))
    assert prepared.metrics == {"scrubbed_prompts": 0, "emptied_prompts": 0}


def test_scrubbed_prompts_can_be_kept_encoded() -> None:
    """Nothing is drawn for them, so a frozen text encoder reads each distinct prompt once."""
    prepared = prepare(told(), asked(captions=[{"kind": "scrub"}]))
    embeddings = PromptEmbeddings(tiny_model(), prepared.films.prompts, text_encoder="frozen", cached=True)
    assert embeddings.embeddings_KLE is not None
    assert len(embeddings.embeddings_KLE) == len({*prepared.films.prompts, ""})


def test_copies_are_dropped_before_prompts_are_counted() -> None:
    given = told()
    twice = TrainingSet(
        np.concatenate([given.images_NHW, given.images_NHW]),
        [*TOLD, *TOLD],
        np.ones(8, dtype=np.int64),
        patients=np.array([0, 1, 2, 3] * 2),
    )
    prepared = prepare(twice, asked(deduplicate={}, captions=[{"kind": "scrub"}]))
    assert prepared.films.records.tolist() == [0, 1, 2, 3]
    assert prepared.dropped is not None
    assert prepared.metrics == prepared.dropped.totals() | {"scrubbed_prompts": 3, "emptied_prompts": 1}
    assert prepared.metrics["dropped_duplicates"] == 4
