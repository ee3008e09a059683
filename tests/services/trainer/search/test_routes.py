"""The routes of searches: what is accepted, what is refused and why, what there is to be looked at, and what is trained with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from services.trainer import app as trainer_app
from services.trainer.search.search_files import SearchFiles
from shared.catalog import new_id, open_catalog
from shared.jobs.records import JobStore
from shared.storage import open_store
from tests.services.trainer.conftest import Trainer
from tests.services.trainer.search.bases import commit_base
from tests.services.trainer.search.finished import finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fixtures.apps import OpenApp
    from tests.fixtures.models import StockedHome

TINY = ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]


@pytest.fixture
async def trainer(
    stocked_home: StockedHome, running_app: OpenApp, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Trainer]:
    """The trainer, which accepts jobs and runs none."""
    del anyio_backend
    monkeypatch.setattr(trainer_app, "JOB_KINDS", ())
    async with running_app(trainer_app.create_app(stocked_home.settings.model_copy(update={"job_slots": 2}))) as client:
        yield Trainer(client, stocked_home)


@pytest.fixture
def search(trainer: Trainer) -> str:
    """The id of a search with nine finished trials, a pruned one, a failed one and a running one."""
    home, search_id = trainer.home, new_id("job")
    jobs = JobStore.open(home.settings)
    jobs.create(job_id=search_id, kind="search", spec=body(trainer))
    jobs.close()
    store = open_store(home.settings)
    summary, trials = finished(modules=TINY)
    SearchFiles(store).keep(search_id, trials, summary)
    store.close()
    return search_id


def body(trainer: Trainer, **changes: Any) -> dict[str, Any]:
    training = {"name": "find", "dataset": trainer.home.dataset.id, "base": trainer.home.model.id, "steps": 100}
    return {"training": training, "space": "svdiff", "objectives": ["memorization", "finding_agreement"], "trials": 12} | changes


async def post(trainer: Trainer, path: str, told: Any) -> tuple[int, dict[str, Any]]:
    response = await trainer.client.post(path, content=json.dumps(told), headers={"Content-Type": "application/json"})
    return response.status_code, response.json()


def slug(problem: dict[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:lethe:problem:")


def places(problem: dict[str, Any]) -> list[str]:
    return [".".join(map(str, error["loc"][1:])) for error in problem["errors"]]


async def test_search_is_accepted_listed_and_asked_for_once(trainer: Trainer) -> None:
    first = await trainer.client.post("/v1/searches", json=body(trainer, parallel=2), headers={"Idempotency-Key": "one"})
    again = await trainer.client.post("/v1/searches", json=body(trainer, parallel=2), headers={"Idempotency-Key": "one"})
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert first.headers["Location"] == f"/v1/searches/{first.json()['id']}"
    found = (await trainer.client.get(first.headers["Location"])).json()
    assert (found["kind"], found["name"], found["so_far"], found["result"]) == ("search", "find", None, None)
    assert found["spec"]["training"]["text_encoder"] == "frozen"
    assert [item["id"] for item in (await trainer.client.get("/v1/searches")).json()["items"]] == [found["id"]]
    cancelled = (await trainer.client.post(f"{first.headers['Location']}/cancel")).json()
    assert cancelled["state"] == "cancelled"


@pytest.mark.parametrize(
    ("changes", "field", "word"),
    [
        ({"objectives": ["beauty"]}, "objectives", "there are memorization"),
        ({"constraints": [{"reward": "beauty", "at_most": 1.0}]}, "constraints", "no reward beauty"),
        ({"objectives": ["memorization", "copy_rate"], "recommend": {"rule": "quality_within"}}, "recommend", "objective of quality"),
        ({"objectives": ["fid"], "recommend": {"rule": "quality_within"}}, "recommend", "objective of memorization"),
        ({"trials": 0}, "trials", "greater than or equal to 1"),
        ({"trials": float("nan")}, "trials", ""),
        ({"trials": 10**30}, "trials", ""),
        ({"parallel": 3}, "parallel", "LETHE_JOB_SLOTS"),
        ({"always": ["up_blocks.3.attentions.2"]}, "always", "up_blocks.3.attentions.2"),
        ({"space": "lora", "ranks": [8, 4]}, "ranks", "rise"),
        ({"ranks": [4]}, "ranks", "lora"),
        ({"space": "full"}, "space", ""),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, "learning_rate.high", "below"),
        ({"pruning": {"keep": 0.0}}, "pruning.keep", ""),
        ({"extra": 1}, "extra", ""),
    ],
)
async def test_search_that_cannot_be_is_refused_by_field(trainer: Trainer, changes: dict[str, Any], field: str, word: str) -> None:
    status, problem = await post(trainer, "/v1/searches", body(trainer, **changes))
    assert (status, slug(problem)) == (422, "validation")
    assert field in places(problem)
    assert word in json.dumps(problem["errors"])


async def test_base_and_data_set_must_exist(trainer: Trainer) -> None:
    for wrong in ({"base": "mdl_0"}, {"dataset": "ds_0"}):
        status, problem = await post(trainer, "/v1/searches", body(trainer, training=body(trainer)["training"] | wrong))
        assert (status, slug(problem)) == (404, "not-found")


@pytest.mark.parametrize(
    ("unet", "vae", "field", "word"),
    [
        (
            {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "mid_block_type": None},
            {},
            "space",
            "no attention",
        ),
        ({}, {"in_channels": 4}, "training.base", "4 channels"),
        ({"in_channels": 9}, {}, "training.base", "9 channels"),
        ({"sample_size": 64}, {}, "training.base", "256 pixels"),
    ],
)
async def test_base_that_does_not_fit_the_films_or_the_space_is_refused(
    trainer: Trainer, tmp_path: Path, unet: dict[str, Any], vae: dict[str, Any], field: str, word: str
) -> None:
    with open_catalog(trainer.home.settings) as catalog:
        base = commit_base(catalog, trainer.home.model, tmp_path / "base", unet=unet, **vae)
    status, problem = await post(trainer, "/v1/searches", body(trainer, training=body(trainer)["training"] | {"base": base}))
    assert (status, places(problem)) == (422, [field])
    assert word in problem["detail"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"counts": {"train": 30, "control": 9, "canary": 0}}, "no canaries"),
        ({"patients": {"train": 20, "control": 1}}, "1 control patients"),
    ],
)
async def test_data_set_that_nothing_can_be_measured_on_is_refused(trainer: Trainer, changes: dict[str, Any], word: str) -> None:
    told = trainer.home.dataset.model_dump() | {"id": new_id("dataset"), "files": [], "digest": ""} | changes
    with open_catalog(trainer.home.settings) as catalog:
        dataset = catalog.commit(type(trainer.home.dataset).model_validate(told)).id
    status, problem = await post(trainer, "/v1/searches", body(trainer, training=body(trainer)["training"] | {"dataset": dataset}))
    assert (status, places(problem)) == (422, ["training.dataset"])
    assert word in problem["detail"]


async def test_search_is_looked_at_while_it_runs(trainer: Trainer, search: str) -> None:
    path = f"/v1/searches/{search}"
    trials = (await trainer.client.get(f"{path}/trials")).json()["trials"]
    assert [trial["state"] for trial in trials] == [*["succeeded"] * 9, "pruned", "failed", "running"]
    assert trials[9]["rungs"][0]["step"] == 30
    so_far = (await trainer.client.get(path)).json()["so_far"]
    assert so_far["trials"]["succeeded"] == 9
    report = await trainer.client.get(f"{path}/report")
    assert (report.status_code, report.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert report.headers["content-security-policy"].startswith("default-src 'none'")
    assert f"Recommended: trial {so_far['recommended']['trial']}" in report.text
    for picture in ("front", "masks", "hypervolume"):
        png = await trainer.client.get(f"{path}/pictures/{picture}.png")
        assert (png.headers["content-type"], png.content[:4]) == ("image/png", b"\x89PNG")


async def test_nothing_runs_of_a_search_that_was_cancelled_while_nobody_ran_it(trainer: Trainer, search: str) -> None:
    path = f"/v1/searches/{search}"
    assert (await trainer.client.post(f"{path}/cancel")).json()["state"] == "cancelled"
    trials = (await trainer.client.get(f"{path}/trials")).json()["trials"]
    assert [trial["state"] for trial in trials[9:]] == ["pruned", "failed", "cancelled"]
    assert (await trainer.client.get(path)).json()["so_far"]["trials"]["running"] == 0


async def test_what_is_no_search_has_nothing_to_look_at(trainer: Trainer) -> None:
    begun = (await trainer.client.post("/v1/searches", json=body(trainer))).json()["id"]
    assert (await trainer.client.get(f"/v1/searches/{begun}/trials")).json() == {"trials": []}
    assert "nothing to be seen" in (await trainer.client.get(f"/v1/searches/{begun}/report")).text
    training = (await trainer.client.post("/v1/training-jobs", json={"name": "a", "dataset": trainer.home.dataset.id})).json()["id"]
    for path in (f"{begun}/pictures/front.png", f"{training}/trials", f"{training}/report", "job_0/trials", "job_0/pictures/masks.png"):
        response = await trainer.client.get(f"/v1/searches/{path}")
        assert (response.status_code, slug(response.json())) == (404, "not-found"), path
    assert (await trainer.client.get(f"/v1/searches/{begun}/pictures/else.png")).status_code == 422


async def test_point_is_applied_as_a_training_job(trainer: Trainer, search: str) -> None:
    path, told = f"/v1/searches/{search}/apply", {"training": {"name": "b", "dataset": trainer.home.dataset.id}}
    accepted = await trainer.client.post(path, json=told, headers={"Idempotency-Key": "one"})
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/v1/training-jobs/{accepted.json()['id']}"
    assert (await trainer.client.post(path, json=told, headers={"Idempotency-Key": "one"})).json()["id"] == accepted.json()["id"]
    elsewhere = {"name": "b", "dataset": trainer.home.dataset.id}  # the same key on another route is another key
    assert (await trainer.client.post("/v1/training-jobs", json=elsewhere, headers={"Idempotency-Key": "one"})).status_code == 202
    job = (await trainer.client.get(accepted.headers["Location"])).json()
    point = (await trainer.client.get(f"/v1/searches/{search}")).json()["so_far"]["recommended"]
    spec = job["spec"]
    assert spec["found_by"] == {"search": search, "trial": point["trial"]}
    assert (spec["parameters"]["kind"], spec["parameters"]["blocks"]) == (point["kind"], point["blocks"])
    assert (spec["learning_rate"], spec["steps"], spec["base"]) == (point["learning_rate"], 100, trainer.home.model.id)


async def test_applying_what_there_is_not_conflicts(trainer: Trainer, search: str) -> None:
    training = {"name": "b", "dataset": trainer.home.dataset.id}
    for number in (9, 10, 11, 12):
        status, problem = await post(trainer, f"/v1/searches/{search}/apply", {"training": training, "trial": number})
        assert (status, slug(problem)) == (409, "state-conflict")
    begun = (await trainer.client.post("/v1/searches", json=body(trainer))).json()["id"]
    status, problem = await post(trainer, f"/v1/searches/{begun}/apply", {"training": training})
    assert (status, slug(problem)) == (409, "state-conflict")
    status, problem = await post(trainer, "/v1/searches/job_0/apply", {"training": training})
    assert (status, slug(problem)) == (404, "not-found")


async def test_applying_to_a_base_with_other_modules_is_refused(trainer: Trainer, search: str, tmp_path: Path) -> None:
    with open_catalog(trainer.home.settings) as catalog:
        deeper = commit_base(catalog, trainer.home.model, tmp_path / "deeper", unet={"layers_per_block": 2})
        larger = commit_base(catalog, trainer.home.model, tmp_path / "larger", unet={"sample_size": 64})
        same = commit_base(catalog, trainer.home.model, tmp_path / "same")
    training = {"name": "b", "dataset": trainer.home.dataset.id}
    for base, word in ((deeper, "down_blocks.1.attentions.1"), (larger, "256 pixels")):
        status, problem = await post(trainer, f"/v1/searches/{search}/apply", {"training": training | {"base": base}})
        assert (status, places(problem)) == (422, ["training.base"])
        assert word in problem["detail"]
    status, accepted = await post(trainer, f"/v1/searches/{search}/apply", {"training": training | {"base": same}})
    assert status == 202
    assert (await trainer.client.get(f"/v1/training-jobs/{accepted['id']}")).json()["spec"]["base"] == same


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"dataset": "ds_0"}, None),
        ({"base": None}, "training"),
        ({"parameters": {"kind": "full", "blocks": []}, "base": "mdl_1"}, "training.parameters"),
        ({"text_encoder": "train"}, "training.parameters"),
        ({"ensemble": {"kind": "iet", "shards": 50, "rounds": 1}}, "training.ensemble.shards"),
        ({"steps": "many"}, "training.steps"),
    ],
)
async def test_application_that_cannot_be_is_refused_by_field(
    trainer: Trainer, search: str, wish: dict[str, Any], field: str | None
) -> None:
    told = {"training": {"name": "b", "dataset": trainer.home.dataset.id} | wish}
    status, problem = await post(trainer, f"/v1/searches/{search}/apply", told)
    if field is None:
        assert (status, slug(problem)) == (404, "not-found")
    else:
        assert (status, places(problem)) == (422, [field])


async def test_trainings_of_their_own_name_no_search(trainer: Trainer) -> None:
    told = {"name": "a", "dataset": trainer.home.dataset.id, "found_by": {"search": "job_1", "trial": 0}}
    status, problem = await post(trainer, "/v1/training-jobs", told)
    assert (status, places(problem)) == (422, ["found_by"])
