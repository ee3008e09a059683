"""The trainer's client asks the routes of the contract."""

from __future__ import annotations

import json

import httpx

from shared.client.trainer import TrainerClient

OPERATION = {"id": "ds_1", "kind": "dataset", "state": "succeeded", "result": {"dataset": "ds_1"}}


def test_films_are_read_page_by_page_in_order() -> None:
    pages = {
        None: {"items": [{"record": 1, "prompt": "a", "patient": "p1", "split": "canary"}], "next_page_token": "t"},
        "t": {"items": [{"record": 2, "prompt": "b", "patient": "p2", "split": "canary"}]},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/datasets/ds_1/records"
        assert request.url.params["split"] == "canary"
        return httpx.Response(200, json=pages[request.url.params.get("page_token")])

    films = list(TrainerClient("http://t", transport=httpx.MockTransport(answer)).films("ds_1", split="canary"))
    assert [(film.record, film.patient) for film in films] == [(1, "p1"), (2, "p2")]


def test_each_call_asks_its_route() -> None:
    asked: list[tuple[str, str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, json.loads(request.content) if request.content else None))
        if request.url.path.endswith(("/image", "/validation/4")):
            return httpx.Response(200, content=b"png")
        if request.url.path.endswith("/events"):
            return httpx.Response(204)
        return httpx.Response(200, json=OPERATION | {"items": [OPERATION], "curves": [{"phase": "denoiser"}], "steps": [2, 4]})

    client = TrainerClient("http://t", transport=httpx.MockTransport(answer))
    assert client.register_dataset({"name": "a"}).id == "ds_1"
    assert client.get_dataset("ds_1").result == {"dataset": "ds_1"}
    assert [item.id for item in client.list_datasets()] == ["ds_1"]
    assert client.film_png("ds_1", 4) == b"png"
    client.train({"steps": 2})
    client.cancel_training("job_1")
    client.get_model("mdl_1")
    assert [model.model_dump()["id"] for model in client.list_models()] == ["ds_1"]
    client.wait_for_dataset("ds_1")
    client.wait_for_training("job_1")
    assert [curve.model_dump() for curve in client.losses("job_1")] == [{"phase": "denoiser"}]
    assert client.validation_steps("job_1") == [2, 4]
    assert client.validation_png("job_1", 4) == b"png"
    client.import_model({"name": "sd"})
    client.wait_for_import("job_2")
    assert asked == [
        ("POST", "/v1/datasets", {"name": "a"}),
        ("GET", "/v1/datasets/ds_1", None),
        ("GET", "/v1/datasets", None),
        ("GET", "/v1/datasets/ds_1/records/4/image", None),
        ("POST", "/v1/training-jobs", {"steps": 2}),
        ("POST", "/v1/training-jobs/job_1/cancel", {}),
        ("GET", "/v1/models/mdl_1", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/datasets/ds_1/events", None),
        ("GET", "/v1/datasets/ds_1", None),
        ("GET", "/v1/training-jobs/job_1/events", None),
        ("GET", "/v1/training-jobs/job_1", None),
        ("GET", "/v1/training-jobs/job_1/losses", None),
        ("GET", "/v1/training-jobs/job_1/validation", None),
        ("GET", "/v1/training-jobs/job_1/validation/4", None),
        ("POST", "/v1/models/import", {"name": "sd"}),
        ("GET", "/v1/model-imports/job_2/events", None),
        ("GET", "/v1/model-imports/job_2", None),
    ]


def test_each_call_of_a_search_asks_its_route() -> None:
    asked: list[tuple[str, str, object]] = []
    search = OPERATION | {"id": "job_3", "kind": "search"}
    tried = {"number": 7, "state": "running", "choice": {"kind": "svdiff"}, "rungs": [{"step": 3, "values": {}}]}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, json.loads(request.content) if request.content else None))
        if request.url.path.endswith(("/report", ".png")):
            return httpx.Response(200, content=b"made")
        if request.url.path.endswith("/events"):
            return httpx.Response(204)
        return httpx.Response(200, json=search | {"items": [search], "trials": [tried]})

    client = TrainerClient("http://t", transport=httpx.MockTransport(answer))
    assert client.search({"space": "svdiff"}).id == "job_3"
    assert client.wait_for_search("job_3").kind == "search"
    assert client.get_search("job_3").id == "job_3"
    assert [item.id for item in client.list_searches()] == ["job_3"]
    client.cancel_search("job_3")
    assert [(trial.number, trial.rungs[0].step) for trial in client.search_trials("job_3")] == [(7, 3)]
    assert client.search_report("job_3") == client.search_picture("job_3", "front") == b"made"
    client.apply_search("job_3", {"trial": 7})
    assert asked == [
        ("POST", "/v1/searches", {"space": "svdiff"}),
        ("GET", "/v1/searches/job_3/events", None),
        ("GET", "/v1/searches/job_3", None),
        ("GET", "/v1/searches/job_3", None),
        ("GET", "/v1/searches", None),
        ("POST", "/v1/searches/job_3/cancel", {}),
        ("GET", "/v1/searches/job_3/trials", None),
        ("GET", "/v1/searches/job_3/report", None),
        ("GET", "/v1/searches/job_3/pictures/front.png", None),
        ("POST", "/v1/searches/job_3/apply", {"trial": 7}),
    ]
