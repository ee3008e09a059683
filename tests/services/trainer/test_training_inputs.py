"""What a training must find before it is queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.trainer.training_inputs import modules_of, require_inputs
from services.trainer.training_spec import TrainingSpec
from shared.errors import InvalidRequestError, NotFoundError
from shared.jobs.records import JobStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.catalog import Catalog
    from tests.fixtures.models import StockedHome


@pytest.fixture
def records(stocked_home: StockedHome) -> Iterator[JobStore]:
    store = JobStore.open(stocked_home.settings)
    yield store
    store.close()


def test_attention_modules_are_read_from_the_config(stocked_home: StockedHome, stocked_catalog: Catalog) -> None:
    assert modules_of(stocked_home.model, stocked_catalog) == [
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    ]


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"ensemble": {"kind": "iet", "shards": 64, "rounds": 1}}, "ensemble.shards"),
        ({"parameters": {"kind": "svdiff", "mask": [1, 0, 1]}}, "parameters.mask"),
        ({"parameters": {"kind": "lora", "ranks": [1, 0, 1]}}, "parameters.ranks"),
        ({"parameters": {"kind": "full", "blocks": ["mid_block.attentions.7"]}}, "parameters.blocks"),
    ],
)
def test_wishes_that_base_or_data_set_cannot_meet_are_refused_by_field(
    stocked_home: StockedHome, stocked_catalog: Catalog, records: JobStore, wishes: dict[str, Any], field: str
) -> None:
    told = {"name": "a", "dataset": stocked_home.dataset.id, "base": stocked_home.model.id, "text_encoder": "frozen", "steps": 64} | wishes
    with pytest.raises(InvalidRequestError) as refused:
        require_inputs(TrainingSpec.model_validate(told), catalog=stocked_catalog, jobs=records)
    assert refused.value.field == field


def test_base_and_data_set_must_exist(stocked_home: StockedHome, stocked_catalog: Catalog, records: JobStore) -> None:
    require_inputs(TrainingSpec(name="a", dataset=stocked_home.dataset.id), catalog=stocked_catalog, jobs=records)
    for told in ({"dataset": "ds_0"}, {"dataset": stocked_home.dataset.id, "base": "mdl_0"}):
        with pytest.raises(NotFoundError):
            require_inputs(TrainingSpec.model_validate({"name": "a"} | told), catalog=stocked_catalog, jobs=records)
