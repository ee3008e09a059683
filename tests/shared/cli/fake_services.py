"""The four services as one function: a phantom of three canaries and some controls, a model that copies its canaries."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import httpx
import numpy as np

from shared.client import DetectorClient, LetheClient, MitigatorClient, SamplerClient, TrainerClient
from shared.imaging.png import encode_png

CANARIES = 3
CONTROLS = 210
REFUSED_PROMPT = "canary film 2"
URL = "http://lethe.test"


def png(shade: int) -> str:
    return base64.b64encode(encode_png(np.full((64, 64), shade, dtype=np.uint8))).decode("ascii")


def film(record: int) -> dict[str, Any]:
    canary = record < CANARIES
    return {
        "record": record,
        "prompt": f"{'canary' if canary else 'control'} film {record}",
        "patient": f"patient-{record if canary else record // 2}",
        "study": "1",
        "view": "AP",
        "split": "canary" if canary else "control",
        "fold": "" if canary else "evaluation" if record % 2 else "calibration",
        "repeats": 40 if canary else 1,
        "sha256": "00",
        "labels": {},
    }


def operation(kind: str, identifier: str, **fields: Any) -> dict[str, Any]:
    progress = {"step": 9, "total": 9, "message": "done", "values": {"loss": 0.5}}
    return {"id": identifier, "kind": kind, "state": "succeeded", "progress": progress, "result": {}, "error": None, **fields}


MODEL = {"id": "mdl_1", "name": "ward", "architecture": "tiny", "dataset": "ds_1", "base": None}
IMPORT = operation("import", "job_2", name="sd", result={"model": "mdl_2"})
OPERATIONS = {
    "/v1/training-jobs": operation("training", "job_1", result={"model": "mdl_1", "metrics": {"loss": 0.5, "note": "x"}}),
    "/v1/models/": IMPORT,
    "/v1/model-imports": IMPORT,
    "/v1/models": {"items": [MODEL]},
    "/v1/calibrations": operation("calibration", "cal_1"),
}


def trial(number: int, state: str, mask: list[int], **fields: Any) -> dict[str, Any]:
    choice = {"kind": "svdiff", "mask": mask, "ranks": None, "learning_rate": 1e-4, "origin": "suggested"}
    return {"number": number, "state": state, "choice": choice, "rungs": [], "values": None, "reason": None, "model": None, **fields}


def figures(memorization: float, fid: float) -> dict[str, dict[str, float]]:
    return {name: {"value": value, "low": value, "high": value, "n": 9} for name, value in (("memorization", memorization), ("fid", fid))}


TRIALS = [
    trial(0, "succeeded", [1, 1], values=figures(0.5, 3.25), model="mdl_1t0000"),
    trial(1, "succeeded", [0, 1], values=figures(0.25, 7.5), model="mdl_1t0001"),
    trial(2, "pruned", [1, 0], rungs=[{"step": 30, "values": figures(0.75, 9.0)}]),
    trial(3, "failed", [0, 0], reason="The loss is not finite."),
]
POINTS = [
    {"trial": tried["number"], "kind": "svdiff", "mask": [1, 1], "blocks": ["mid_block.attentions.0"], "learning_rate": 1e-4}
    | {"values": {name: value["value"] for name, value in tried["values"].items()}, "model": tried["model"]}
    for tried in TRIALS[:2]
]
FOUND = {
    "pareto": POINTS,
    "recommended": POINTS[1] | {"rule": "the point nearest to the best"},
    "base": {"values": {"memorization": 0.125, "fid": 44.0}, "intervals": {"memorization": [0.0, 0.25], "fid": [40.0, 50.0]}},
    "floors": {"fid": 1.5, "kid": 0.5},
    "trials": {"running": 0, "succeeded": 2, "pruned": 1, "failed": 1, "cancelled": 0},
}
SEARCH = operation("search", "job_3", name="ward", spec={"objectives": ["memorization", "fid"], "trials": 4}, result=FOUND)


class FakeServices:
    """Answers requests; keeps count of them."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies: dict[str, list[dict[str, Any]]] = {}
        self.drawn: list[str] = []

    def client(self) -> LetheClient:
        client = LetheClient(trainer_url=URL, sampler_url=URL, detector_url=URL, mitigator_url=URL)
        transport = httpx.MockTransport(self)
        for service in client.transports:
            service.close()
        client.trainer = TrainerClient(URL, transport=transport)
        client.sampler = SamplerClient(URL, transport=transport)
        client.detector = DetectorClient(URL, transport=transport)
        client.mitigator = MitigatorClient(URL, transport=transport)
        return client

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked[f"{request.method} {path}"] += 1
        self.bodies.setdefault(path, []).append(body)
        if path.endswith("/events"):
            return httpx.Response(204)
        if path.endswith("/image"):
            return httpx.Response(200, content=base64.b64decode(png(int(path.split("/")[-2]))))
        if path.endswith("/page"):
            return httpx.Response(200, text=f"<html>{path.split('/')[-2]}</html>")
        if path.endswith("/records"):
            return self._records(request)
        if path.startswith("/v1/searches"):
            return self._search(path)
        if path.startswith("/v1/datasets"):
            counts = {"train": 50, "canary": CANARIES, "control": 2 * CONTROLS}
            dataset = operation("dataset", "ds_1", name="ward", counts=counts, patients=counts)
            return httpx.Response(200, json={**dataset, "items": [dataset]})
        for prefix, answer in OPERATIONS.items():
            if path.startswith(prefix):
                return httpx.Response(200, json=answer)
        answers = {"/v1/screenings": self._screen, "/v1/matches": self._match, "/v1/strategies": self._strategies}
        if path in answers:
            return httpx.Response(200, json=answers[path](body))
        return self._mitigate(body) if "mitigation" in body else httpx.Response(200, json={"id": "gen_1", "images": self._draw(body)})

    def _records(self, request: httpx.Request) -> httpx.Response:
        films = [film(record) for record in range(CANARIES + 2 * CONTROLS)]
        return httpx.Response(200, json={"items": [item for item in films if item["split"] == request.url.params["split"]]})

    def _search(self, path: str) -> httpx.Response:
        if path.endswith("/report"):
            return httpx.Response(200, text="<html>front</html>")
        if path.endswith("/apply"):
            return httpx.Response(202, json=OPERATIONS["/v1/training-jobs"])
        if path.endswith("/trials"):
            return httpx.Response(200, json={"trials": TRIALS})
        return httpx.Response(200, json=SEARCH | {"items": [SEARCH]})

    def _screen(self, body: dict[str, Any]) -> dict[str, Any]:
        results = []
        for prompt in body["prompts"]:
            number = int(prompt.split()[-1])
            score = 3.0 + number if prompt.startswith("canary") else 1.0 + (number % 17) / 20
            tokens = [{"text": word, "weight": 1 / 3} for word in prompt.split()] if body["explain"] else None
            decision = "mitigate" if score >= 2 else "allow"
            verdict = {"decision": decision, "score": score, "p_value": 0.01, "threshold": 2.0, "signals": {}}
            results.append(verdict | {"tokens": tokens, "reasons": ["above the threshold"]})
        return {"results": results, "calibration": "cal_1"}

    def _draw(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        images = []
        for index, prompt in enumerate(body["prompts"]):
            for j in range(body["images_per_prompt"]):
                # The picture says what it is: bright for a copy, dark for none.
                plain = "mitigation" not in body and prompt.startswith("canary")
                image = {"prompt_index": index, "seed": body["seed"] + j, "png": png(200 if plain else 40)}
                images.append(image | {"uri": None, "sha256": "00"})
        return images

    def _match(self, body: dict[str, Any]) -> dict[str, Any]:
        copies = [picture == png(200) for picture in body["images"]]
        matches = []
        for row, copy in enumerate(copies):
            similarity, verdict = (0.98, "copy") if copy else (0.3 + row / 1000, "none")
            matches.append([{"record": row % CANARIES, "patient": "p", "similarity": similarity, "verdict": verdict}])
        agreements = [{"value": 1.0 if copy else 0.75, "asked": [], "seen": []} for copy in copies]
        verdicts = ["copy" if copy else "none" for copy in copies]
        return {"matches": matches, "verdicts": verdicts, "thresholds": {"copy": 0.9, "tile": 0.1}, "agreements": agreements}

    def _strategies(self, _body: dict[str, Any]) -> dict[str, Any]:
        timed = {"properties": {"variant": {"enum": ["static", "dynamic"], "type": "string"}}}
        return {
            "items": [
                {"name": "auto", "summary": "least change first", "parameters": {}, "cost": "", "paper": "Lethe"},
                {"name": "prompt_generalisation", "summary": "fewer words", "parameters": {"properties": {}}, "cost": "nF", "paper": "Wen"},
                {"name": "guidance_timing", "summary": "later", "parameters": timed, "cost": "0", "paper": "Jain"},
            ]
        }

    def _mitigate(self, body: dict[str, Any]) -> httpx.Response:
        name = body["mitigation"]["strategy"]
        failed = name == "guidance_timing" or REFUSED_PROMPT in body["prompts"]
        evidence = {
            "strategy": name if name != "auto" else "prompt_generalisation+guidance_timing",
            "changes": ['dropped "film"'],
            "score_before": 3.0,
            "score_after": 2.5 if failed else 1.0,
            "similarity_before": 0.98,
            "similarity_after": 0.97 if failed else 0.4,
            "verdict_after": "copy" if failed else "none",
            "prompt_fidelity": 0.7,
        }
        images = self._draw(body)
        if failed:
            problem = {"type": "urn:lethe:problem:mitigation-insufficient", "title": "No", "status": 409, "detail": "No strategy helped."}
            return httpx.Response(409, json=problem | {"evidence": [{**evidence, "changes": []} for _ in images]})
        return httpx.Response(200, json={"id": "gen_2", "images": [image | {"evidence": evidence} for image in images]})
