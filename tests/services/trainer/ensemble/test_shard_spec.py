"""What the job of a shard is told and called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest
from pydantic import ValidationError

from services.trainer.ensemble.shard_spec import ShardSpec, shard_folder, shard_job_id, shards_folder
from services.trainer.training_spec import TrainingSpec
from shared.catalog import new_id
from shared.jobs.tables import JOBS

if TYPE_CHECKING:
    from sqlalchemy import String

TOLD = {"training": "job_1", "round": 2, "shard": 3, "begins_with": 40, "torch_threads": 1}
SPEC = {"name": "a", "dataset": "ds_1", "steps": 100, "ensemble": {"kind": "iet", "shards": 4, "rounds": 5}}


def test_spec_survives_its_record() -> None:
    spec = ShardSpec.model_validate(TOLD | {"spec": SPEC})
    assert ShardSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert spec.rule.shards == 4
    assert spec.spec == TrainingSpec.model_validate(SPEC)


def test_training_without_an_ensemble_has_no_shards() -> None:
    with pytest.raises(ValueError, match="no shards"):
        _ = ShardSpec.model_validate(TOLD | {"spec": SPEC | {"ensemble": None}}).rule
    with pytest.raises(ValidationError):
        ShardSpec.model_validate(TOLD | {"spec": SPEC, "round": 0})


def test_names_follow_from_the_training_and_fit_their_column() -> None:
    assert shard_job_id("job_1", 2, 3) == "job_1-r2-s3"
    assert len(shard_job_id(new_id("job"), 1000, 63)) <= (cast("String", JOBS.c.id.type).length or 0)
    assert shard_folder("job_1", 3) == "job_1/shards/3"
    assert shard_folder("job_1", 3).startswith(shards_folder("job_1") + "/")
