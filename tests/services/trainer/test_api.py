"""The trainer's routes: data sets and models from end to end, and what bad input gets."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from shared.catalog import open_catalog
from shared.diffusion.model import Model
from shared.imaging.png import decode_png

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.trainer.conftest import Trainer

PHANTOM: dict[str, Any] = {
    "name": "ward-a",
    "source": {"format": "phantom", "patients": 6},
    "image_size": 16,
    "control_fraction": 0.3,
    "canaries": {"count": 1, "repeats": 5},
}


def slug(problem: dict[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:lethe:problem:")


async def post(trainer: Trainer, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Post what json.dumps makes of it, NaN included."""
    response = await trainer.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    return response.status_code, response.json()


# ---------------------------------------------------------------- data sets


async def test_data_set_is_registered_described_and_looked_into(trainer: Trainer) -> None:
    accepted = await trainer.client.post("/v1/datasets", json=PHANTOM)
    assert accepted.status_code == 202
    path = accepted.headers["Location"]
    assert path == f"/v1/datasets/{accepted.json()['id']}"
    data_set = await trainer.wait(path)
    assert data_set["state"] == "succeeded"
    assert data_set["result"] == {"dataset": data_set["id"]}
    assert data_set["name"] == "ward-a"
    assert data_set["splits"]["canary"] == {"films": 1, "patients": 1}
    assert sum(data_set["counts"].values()) == sum(split["films"] for split in data_set["splits"].values())
    listed = (await trainer.client.get("/v1/datasets")).json()["items"]
    assert [(item["id"], item["counts"]) for item in listed] == [(data_set["id"], data_set["counts"])]

    first = (await trainer.client.get(f"{path}/records", params={"page_size": 3})).json()
    second = (await trainer.client.get(f"{path}/records", params={"page_size": 200, "page_token": first["next_page_token"]})).json()
    assert "next_page_token" not in second
    records = first["items"] + second["items"]
    assert [record["record"] for record in records] == list(range(sum(data_set["counts"].values())))
    (canary,) = (await trainer.client.get(f"{path}/records", params={"split": "canary"})).json()["items"]
    assert canary == next(record for record in records if record["split"] == "canary")
    assert canary["repeats"] == 5
    assert set(canary["labels"].values()) <= {1, 0, -1, None}

    image = await trainer.client.get(f"{path}/records/{canary['record']}/image")
    assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
    assert hashlib.sha256(image.content).hexdigest() == canary["sha256"]
    assert decode_png(image.content, max_pixels=256).shape == (16, 16)
    again = await trainer.client.get(f"{path}/records/{canary['record']}/image", headers={"If-None-Match": image.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_data_set_has_a_page_and_tells_what_it_shows(trainer: Trainer) -> None:
    path = f"/v1/datasets/{trainer.home.dataset.id}"
    told = (await trainer.client.get(path)).json()
    assert sum(told["histograms"]["sex"].values()) == sum(told["counts"].values())
    assert told["gates"]["k_anonymity"]["k"] == 5
    assert told["left_out"] == 0
    page = await trainer.client.get(f"{path}/page")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert f"<h1>{told['name']}</h1>" in page.text


async def test_unknown_encoder_is_refused_at_once(trainer: Trainer) -> None:
    status, problem = await post(trainer, "/v1/datasets", {**PHANTOM, "prompt": {"encoder": "mdl_0"}})
    assert (status, slug(problem)) == (404, "not-found")


async def test_committed_data_set_without_job_record_is_still_there(trainer: Trainer) -> None:
    committed = trainer.home.dataset
    found = (await trainer.client.get(f"/v1/datasets/{committed.id}")).json()
    assert (found["id"], found["state"], found["result"]) == (committed.id, "succeeded", {"dataset": committed.id})
    assert found["counts"] == committed.counts


async def test_data_set_in_work_is_a_conflict_and_not_unknown(trainer: Trainer) -> None:
    accepted = (await trainer.client.post("/v1/datasets", json={**PHANTOM, "source": {"format": "phantom", "patients": 2000}})).json()
    for method, path, body in (
        ("GET", f"/v1/datasets/{accepted['id']}/records", None),
        ("GET", f"/v1/datasets/{accepted['id']}/page", None),
        ("POST", "/v1/training-jobs", {"name": "a", "dataset": accepted["id"]}),
    ):
        response = await trainer.client.request(method, path, json=body)
        assert (response.status_code, slug(response.json())) == (409, "state-conflict")
        assert "still being registered" in response.json()["detail"]
    await trainer.client.post(f"/v1/datasets/{accepted['id']}/cancel")
    assert (await trainer.wait(f"/v1/datasets/{accepted['id']}"))["state"] == "cancelled"
    response = await trainer.client.get(f"/v1/datasets/{accepted['id']}/records")
    assert response.status_code == 404


async def test_table_without_a_needed_column_fails_the_job_and_commits_nothing(trainer: Trainer) -> None:
    folder = trainer.home.folder / "imports" / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("Path,Age\nfilm.jpg,60\n")
    before = (await trainer.client.get("/v1/models")).json()
    status, accepted = await post(
        trainer, "/v1/datasets", {"name": "a", "source": {"format": "chexpert", "uri": f"file://{folder}", "csv": "train.csv"}}
    )
    assert status == 202
    failed = await trainer.wait(f"/v1/datasets/{accepted['id']}")
    assert (failed["state"], slug(failed["error"])) == ("failed", "validation")
    assert "Frontal/Lateral" in failed["error"]["detail"]
    assert not (trainer.home.folder / "store" / "datasets" / accepted["id"]).exists()
    assert (await trainer.client.get("/v1/models")).json() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_size": -8}, ["body", "image_size"]),
        ({"image_size": 20}, ["body", "image_size"]),
        ({"image_size": 10**30}, ["body", "image_size"]),
        ({"image_size": "64"}, ["body", "image_size"]),
        ({"control_fraction": float("nan")}, ["body", "control_fraction"]),
        ({"canaries": {"count": -1, "repeats": 40}}, ["body", "canaries", "count"]),
        ({"canaries": {"count": 1, "repeats": 40, "extra": 1}}, ["body", "canaries", "extra"]),
        ({"source": {"format": "tiff"}}, ["body", "source"]),
        ({"source": {"format": "dicom"}}, ["body", "source", "uri"]),
        ({"source": {"format": "phantom", "patients": True}}, ["body", "source", "patients"]),
        ({"extra": 1}, ["body", "extra"]),
        ({"name": "a\0"}, ["body", "name"]),
        ({"seed": -1}, ["body", "seed"]),
    ],
)
async def test_data_set_against_the_schema_is_refused_by_field(trainer: Trainer, change: dict[str, Any], field: list[str]) -> None:
    status, problem = await post(trainer, "/v1/datasets", {**PHANTOM, **change})
    assert (status, slug(problem)) == (422, "validation")
    assert [error["loc"] for error in problem["errors"]] == [field]


async def test_folder_outside_the_import_roots_is_forbidden(trainer: Trainer) -> None:
    status, problem = await post(
        trainer, "/v1/datasets", {**PHANTOM, "source": {"format": "chexpert", "uri": "file:///etc", "csv": "train.csv"}}
    )
    assert (status, slug(problem)) == (403, "forbidden")
    assert "LETHE_IMPORT_ROOTS" in problem["detail"]


async def test_place_that_is_no_file_is_refused(trainer: Trainer) -> None:
    status, problem = await post(trainer, "/v1/datasets", {**PHANTOM, "source": {"format": "chexpert", "uri": "https://a/b", "csv": "t"}})
    assert (status, slug(problem)) == (422, "validation")
    assert problem["errors"][0]["loc"] == ["body", "source", "uri"]


async def test_body_over_the_limit_is_refused(trainer: Trainer) -> None:
    status, problem = await post(trainer, "/v1/datasets", {**PHANTOM, "name": "a" * 1_100_000})
    assert (status, slug(problem)) == (413, "payload-too-large")


@pytest.mark.parametrize("path", ["", "/records", "/records/0/image", "/page", "/events"])
async def test_unknown_data_set_is_named(trainer: Trainer, path: str) -> None:
    response = await trainer.client.get(f"/v1/datasets/ds_0{path}")
    assert (response.status_code, slug(response.json())) == (404, "not-found")
    assert "ds_0" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("records/99999/image", 404),
        ("records/-1/image", 422),
        ("records/x/image", 422),
        ("records?split=test", 422),
        ("records?page_size=0", 422),
        ("records?unknown=1", 422),
        ("records?page_token=abc", 400),
    ],
)
async def test_bad_place_in_a_data_set_is_refused(trainer: Trainer, path: str, status: int) -> None:
    assert (await trainer.client.get(f"/v1/datasets/{trainer.home.dataset.id}/{path}")).status_code == status


async def test_page_token_of_one_split_does_not_open_another(trainer: Trainer) -> None:
    path = f"/v1/datasets/{trainer.home.dataset.id}/records"
    token = (await trainer.client.get(path, params={"split": "train", "page_size": 1})).json()["next_page_token"]
    assert (await trainer.client.get(path, params={"split": "control", "page_token": token})).status_code == 400


async def test_corrupted_part_in_the_store_is_an_integrity_failure_and_no_picture(trainer: Trainer) -> None:
    part = trainer.home.folder / "store" / "datasets" / trainer.home.dataset.id / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.chmod(0o644)
    part.write_bytes(data)
    response = await trainer.client.get(f"/v1/datasets/{trainer.home.dataset.id}/records/0/image")
    assert (response.status_code, slug(response.json())) == (500, "integrity-failed")


# ---------------------------------------------------------------- training and models


async def test_training_makes_a_model_that_loads_and_can_be_named(trainer: Trainer) -> None:
    body = {"name": "again", "dataset": trainer.home.dataset.id, "base": trainer.home.model.id, "steps": 3, "batch_size": 4, "seed": 7}
    accepted = await trainer.client.post("/v1/training-jobs", json=body, headers={"Idempotency-Key": "one"})
    assert accepted.status_code == 202
    repeated = await trainer.client.post("/v1/training-jobs", json=body, headers={"Idempotency-Key": "one"})
    assert repeated.json()["id"] == accepted.json()["id"]
    job = await trainer.wait(accepted.headers["Location"])
    assert (job["state"], job["name"], job["dataset"]) == ("succeeded", "again", trainer.home.dataset.id)
    assert (job["progress"]["step"], job["progress"]["total"]) == (3, 3)
    model_id = job["result"]["model"]
    assert job["result"]["metrics"]["loss"] > 0

    events = (await trainer.client.get(f"/v1/training-jobs/{job['id']}/events")).text
    assert "event: end" in events
    assert '"message":"training the denoiser"' in events or '"message":"storing the model"' in events

    listed = (await trainer.client.get("/v1/models", params={"page_size": 1})).json()
    assert [model["id"] for model in listed["items"]] == [model_id]
    rest = (await trainer.client.get("/v1/models", params={"page_token": listed["next_page_token"]})).json()
    assert [model["id"] for model in rest["items"]] == [trainer.home.model.id]

    manifest = (await trainer.client.get(f"/v1/models/{model_id}")).json()
    assert manifest["lineage"]["base_digest"] == trainer.home.model.digest
    assert manifest["lineage"]["dataset_digest"] == trainer.home.dataset.digest
    assert (manifest["status"], manifest["seed"], manifest["spec"]["steps"]) == ("candidate", 7, 3)
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= {file["path"] for file in manifest["files"]}
    with open_catalog(trainer.home.settings) as catalog:
        assert Model.load(catalog.fetch(catalog.get("model", model_id)), key="test").image_size == 32

    named = await trainer.client.put(f"/v1/models/{model_id}/aliases/champion")
    assert named.json() == {"alias": "champion", "model": model_id}
    assert (await trainer.client.get("/v1/models/champion")).json() == manifest


async def test_folder_is_imported_fine_tuned_and_watched(trainer: Trainer, stable_diffusion_folder: Path) -> None:
    folder = trainer.home.folder / "imports" / "sd"
    shutil.copytree(stable_diffusion_folder, folder)
    accepted = await trainer.client.post("/v1/models/import", json={"name": "sd", "uri": folder.as_uri()})
    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/v1/model-imports/{accepted.json()['id']}"
    imported = await trainer.wait(accepted.headers["Location"])
    assert (imported["state"], imported["kind"], imported["name"]) == ("succeeded", "import", "sd"), imported
    base = imported["result"]["model"]
    assert (await trainer.client.get(f"/v1/models/{base}")).json()["lineage"]["imported_from"] == folder.as_uri()
    body = {
        "name": "tuned",
        "dataset": trainer.home.dataset.id,
        "base": base,
        "steps": 4,
        "batch_size": 2,
        "text_encoder": "frozen",
        "objective": "native",
        "min_snr_gamma": 5.0,
        "noise_offset": 0.05,
        "gradient_accumulation": 2,
        "gradient_checkpointing": True,
        "precision": "bf16",
        "schedule": "cosine",
        "validation": {"every": 2, "prompts": ["chest X-ray, AP", "chest X-ray, PA"]},
    }
    job = (await trainer.client.post("/v1/training-jobs", json=body)).json()
    path = f"/v1/training-jobs/{job['id']}"
    ended = await trainer.wait(path)
    assert ended["state"] == "succeeded", ended
    assert ended["result"]["metrics"]["truncated_prompts"] == 0
    manifest = (await trainer.client.get(f"/v1/models/{ended['result']['model']}")).json()
    assert (manifest["base"], manifest["spec"]["validation"]) == (base, {"every": 2, "prompts": 2})
    curves = (await trainer.client.get(f"{path}/losses")).json()["curves"]
    assert [(curve["phase"], curve["steps"], [point["step"] for point in curve["points"]]) for curve in curves] == [
        ("denoiser", 4, [1, 2, 3, 4])
    ]
    assert (await trainer.client.get(f"{path}/validation")).json() == {"steps": [2, 4]}
    strip = await trainer.client.get(f"{path}/validation/4")
    assert strip.headers["Content-Type"] == "image/png"
    assert decode_png(strip.content, max_pixels=10_000).shape == (32, 64)
    again = await trainer.client.get(f"{path}/validation/4", headers={"If-None-Match": strip.headers["ETag"]})
    assert again.status_code == 304
    missing = await trainer.client.get(f"{path}/validation/3")
    assert (missing.status_code, slug(missing.json())) == (404, "not-found")


@pytest.mark.parametrize("path", ["losses", "validation", "validation/1"])
async def test_what_is_no_training_has_nothing_to_look_at(trainer: Trainer, path: str) -> None:
    accepted = (
        await trainer.client.post("/v1/models/import", json={"name": "a", "uri": (trainer.home.folder / "imports").as_uri()})
    ).json()
    for job_id in ("job_0", accepted["id"]):
        response = await trainer.client.get(f"/v1/training-jobs/{job_id}/{path}")
        assert (response.status_code, slug(response.json())) == (404, "not-found")
    ended = await trainer.wait(f"/v1/model-imports/{accepted['id']}")
    assert (ended["state"], slug(ended["error"])) == ("failed", "validation")
    assert "model_index.json is missing" in ended["error"]["detail"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"name": "a", "uri": "file:///etc"}, 403, "forbidden"),
        ({"name": "a", "uri": "s3://bucket/sd"}, 422, "validation"),
        ({"name": "a"}, 422, "validation"),
        ({"name": "a", "uri": "file:///a\0"}, 422, "validation"),
    ],
)
async def test_import_that_cannot_be_is_refused_at_once(trainer: Trainer, body: dict[str, Any], status: int, named: str) -> None:
    code, problem = await post(trainer, "/v1/models/import", body)
    assert (code, slug(problem)) == (status, named)


async def test_cancelled_training_stops_within_a_step_and_makes_no_model(trainer: Trainer) -> None:
    body = {"name": "long", "dataset": trainer.home.dataset.id, "base": trainer.home.model.id, "steps": 100_000, "batch_size": 4}
    running = (await trainer.client.post("/v1/training-jobs", json=body)).json()
    queued = (await trainer.client.post("/v1/training-jobs", json=body)).json()
    path = f"/v1/training-jobs/{running['id']}"
    job = await trainer.wait_until(path, lambda job: job["progress"]["step"] > 1 and "loss" in job["progress"]["values"])
    assert job["progress"]["values"]["step_seconds"] > 0
    assert (await trainer.client.post(f"/v1/training-jobs/{queued['id']}/cancel")).json()["state"] == "cancelled"
    assert (await trainer.client.get(path)).json()["state"] == "running"
    await trainer.client.post(f"{path}/cancel")
    assert (await trainer.wait(path))["state"] == "cancelled"
    assert [model["id"] for model in (await trainer.client.get("/v1/models")).json()["items"]] == [trainer.home.model.id]


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"dataset": "ds_0"}, 404, "ds_0"),
        ({"dataset": "../x"}, 404, "../x"),
        ({"base": "mdl_0"}, 404, "mdl_0"),
        ({"learning_rate": float("nan")}, 422, "learning_rate"),
        ({"learning_rate": float("inf")}, 422, "learning_rate"),
        ({"learning_rate": -1}, 422, "learning_rate"),
        ({"steps": 0}, 422, "steps"),
        ({"steps": 10**12}, 422, "steps"),
        ({"steps": True}, 422, "steps"),
        ({"batch_size": "16"}, 422, "batch_size"),
        ({"prompt_dropout": 1.5}, 422, "prompt_dropout"),
        ({"seed": 2**53}, 422, "seed"),
        ({"unknown": 1}, 422, "unknown"),
        ({"parameters": {"kind": "loha"}}, 422, "parameters"),
        ({"parameters": {"kind": "full", "mask": [1, 1, 1, 1]}}, 422, "parameters"),
        ({"parameters": {"kind": "full", "blocks": ["mid_block.attentions.0"], "mask": [1]}}, 422, "mask"),
        ({"parameters": {"kind": "lora", "mask": [0, 0, 0, 0]}, "text_encoder": "frozen"}, 422, "mask"),
        ({"parameters": {"kind": "svdiff"}, "text_encoder": "frozen"}, 422, "parameters"),
        ({"parameters": {"kind": "attention"}, "base": "mdl_0"}, 422, "parameters"),
        ({"captions": ["random"]}, 422, "captions"),
        ({"batch_filter": {"kind": "wen"}}, 422, "batch_filter"),
        ({"batch_filter": {"kind": "magnitude", "threshold": 2.0, "quantile": 0.9}}, 422, "quantile"),
        ({"batch_filter": {"kind": "anti_gradient"}, "data_parallel": {"ranks": 2}}, 422, "batch_filter"),
        ({"captions": [{"kind": "random_tokens", "words": 0}]}, 422, "words"),
        ({"captions": [{"kind": "embedding_noise"}, {"kind": "embedding_noise"}]}, 422, "captions"),
        ({"timesteps": "cubic"}, 422, "timesteps"),
        ({"ensemble": 2}, 422, "ensemble"),
        ({"ensemble": {"kind": "iet", "shards": 64, "rounds": 2}}, 422, "shards"),
        ({"ensemble": {"kind": "iet"}, "steps": 39}, 422, "ensemble"),
        ({"ensemble": {"kind": "iet", "redistribute": 0.05}}, 422, "ensemble"),
        ({"ensemble": {"kind": "iet"}, "data_parallel": {"ranks": 2}}, 422, "ensemble"),
        ({"ensemble": {"kind": "iet"}, "validation": {"prompts": ["a"]}}, 422, "ensemble"),
        ({"ensemble": {"kind": "iet", "shards": "4"}}, 422, "shards"),
        ({"ensemble": {"kind": "iet", "parallel": 5}}, 422, "parallel"),
        ({"architecture": "sdxl"}, 422, "architecture"),
    ],
)
async def test_training_that_cannot_be_is_refused_at_once(trainer: Trainer, change: dict[str, Any], status: int, named: str) -> None:
    answered, problem = await post(trainer, "/v1/training-jobs", {"name": "a", "dataset": trainer.home.dataset.id, **change})
    assert answered == status
    assert named in (problem["detail"] if status == 404 else problem["errors"][0]["loc"])
    assert (await trainer.client.get("/v1/training-jobs")).json() == {"items": []}


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"parameters": {"kind": "full", "mask": [2]}}, "parameters.mask.0", "0 or 1"),
        ({"parameters": {"kind": "lora", "rank": 0}}, "parameters.rank", "greater than or equal to 1"),
        ({"captions": [{"kind": "scrub"}, {"kind": "multiple", "count": 1}]}, "captions.1.count", "greater than or equal to 2"),
        ({"batch_filter": {"kind": "magnitude", "threshold": 1.0, "quantile": 0.5}}, "batch_filter.quantile", "not both"),
        ({"ensemble": {"kind": "iet", "redistribute": 0.05}}, "ensemble", "ensemble.redistribute"),
    ],
)
async def test_field_inside_a_method_is_named_without_the_methods_kind(
    trainer: Trainer, change: dict[str, Any], field: str, told: str
) -> None:
    status, problem = await post(trainer, "/v1/training-jobs", {"name": "a", "dataset": trainer.home.dataset.id, **change})
    assert (status, [".".join(map(str, error["loc"])) for error in problem["errors"]]) == (422, [f"body.{field}"])
    assert told in problem["errors"][0]["msg"]


@pytest.mark.parametrize(
    ("wishes", "field", "told"),
    [
        ({"kind": "svdiff", "mask": [1, 0, 1]}, "parameters.mask", "3 attention modules, and the base has 4"),
        ({"kind": "lora", "mask": [1] * 16}, "parameters.mask", "16 attention modules, and the base has 4"),
        ({"kind": "lora", "ranks": [4, 0, 2]}, "parameters.ranks", "3 attention modules, and the base has 4"),
        ({"kind": "full", "blocks": ["mid_block.attentions.7"]}, "parameters.blocks", "it has down_blocks.1.attentions.0, mid_block"),
    ],
)
async def test_attention_modules_that_the_base_lacks_are_refused_at_once(
    trainer: Trainer, wishes: dict[str, Any], field: str, told: str
) -> None:
    home = trainer.home
    body = {"name": "a", "dataset": home.dataset.id, "base": home.model.id, "text_encoder": "frozen", "parameters": wishes}
    status, problem = await post(trainer, "/v1/training-jobs", body)
    assert (status, problem["errors"][0]["loc"]) == (422, ["body", *field.split(".")])
    assert told in problem["detail"]
    assert (await trainer.client.get("/v1/training-jobs")).json() == {"items": []}


@pytest.mark.parametrize(("name", "status"), [("mdl_0", 404), ("nobody", 404), ("..", 404), ("a" * 65, 422)])
async def test_unknown_model_is_told_so(trainer: Trainer, name: str, status: int) -> None:
    response = await trainer.client.get(f"/v1/models/{name}")
    assert response.status_code == status


async def test_known_manifest_is_not_sent_again(trainer: Trainer) -> None:
    path = f"/v1/models/{trainer.home.model.id}"
    tag = (await trainer.client.get(path)).headers["ETag"]
    assert tag == f'"{trainer.home.model.digest}"'
    assert (await trainer.client.get(path, headers={"If-None-Match": tag})).status_code == 304


@pytest.mark.parametrize("alias", ["A", "a_b", "-a", "a" * 64])
async def test_alias_of_odd_characters_is_refused(trainer: Trainer, alias: str) -> None:
    response = await trainer.client.put(f"/v1/models/{trainer.home.model.id}/aliases/{alias}")
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["path", "alias"])


async def test_alias_of_an_unknown_model_is_refused(trainer: Trainer) -> None:
    assert (await trainer.client.put("/v1/models/mdl_0/aliases/a")).status_code == 404
