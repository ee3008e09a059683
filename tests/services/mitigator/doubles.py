"""Stand-ins that the mitigator's tests share: a memorizer that can be differentiated, a scripted judge, a fake detector."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.mitigator.mitigation import ImageVerdict, Judge, Order, Screening
from services.mitigator.strategy import Plan, Workbench
from shared.client import DetectorClient
from shared.diffusion.generation import draw_images
from shared.diffusion.model import Model
from shared.errors import ScreenerUnavailableError
from shared.imaging.png import decode_png
from shared.memorization.magnitude import UnconditionalCache, screening_seeds
from tests.denoisers import MemorizerModel

GOOD = ImageVerdict(similarity=0.2, similarity_threshold=0.8, verdict="none", fidelity=1.0)
COPY = ImageVerdict(similarity=0.95, similarity_threshold=0.8, verdict="copy", fidelity=1.0)


def verdict(fidelity: float, similarity: float = 0.2, word: str = "none") -> ImageVerdict:
    """A verdict of the judge on one image."""
    return ImageVerdict(similarity=similarity, similarity_threshold=0.8, verdict=word, fidelity=fidelity)


def workbench(model: Model, *, threshold: float = 1e9, target: float = 1.0, scale: float = 3.0, seeds: int = 4) -> Workbench:
    """What strategies work with, with a cold cache."""
    return Workbench(model, UnconditionalCache(), threshold, target, scale, screening_seeds(0, seeds))


@dataclass
class DifferentiableMemorizer(MemorizerModel):
    """Memorized one image for several prompts, and listens a little to each token of what it is told."""

    triggers: Sequence[str] = ()
    weights_L: Tensor = field(default_factory=lambda: torch.full((64,), 1e-3))

    def predict_noise(self, x_BCHW: Tensor, t: int | Tensor, embeddings_BLE: Tensor) -> Tensor:
        """The memorizer's ε where the embedding is a trigger's, the Gaussian's elsewhere, and a trace of every token."""
        triggers_TLE = self.encode(list(self.triggers)).embeddings_BLE
        triggered_B = ((embeddings_BLE.detach()[:, None] - triggers_TLE[None]).abs().amax((2, 3)) < 1e-4).any(1)
        memorized = self.memorizer(x_BCHW, t, self.image_CHW)
        plain = self.gaussian(x_BCHW, t, self.mean, self.deviation)
        heard_B = torch.einsum("l,ble->b", self.weights_L, embeddings_BLE)
        return torch.where(triggered_B.view(-1, 1, 1, 1), memorized, plain) + heard_B.view(-1, 1, 1, 1)


@dataclass
class ScriptedJudge:
    """Answers images by a script, one entry a question, and remembers what it was asked."""

    rounds: Sequence[Sequence[ImageVerdict]]
    score: float = 1.0
    threshold: float = 1e9
    away_at: int | None = None
    asked: list[tuple[str, list[str]]] = field(default_factory=list)

    def screen(self, model_id: str, prompt: str) -> Screening:
        """The same score for every prompt."""
        assert model_id == "mdl_test"
        assert prompt
        return Screening(self.score, self.threshold, 0.5, "cal_test", steps=1, seeds_per_prompt=2)

    def match(self, dataset: str, images_NHW: NDArray[np.uint8], prompts: Sequence[str]) -> list[ImageVerdict]:
        """The next entry of the script."""
        number = len(self.asked)
        self.asked.append((dataset, list(prompts)))
        if number == self.away_at:
            raise ScreenerUnavailableError("away")
        answer = list(self.rounds[number])
        assert len(answer) == len(images_NHW) == len(prompts)
        return answer


@dataclass(frozen=True)
class InlineWorkshop:
    """Works on one model and asks one judge, each at once."""

    model: Model
    judge: Judge

    async def compute(self, _model_id: str, work: Callable[[Model], Any]) -> Any:
        """What `work` makes of the model."""
        return work(self.model)

    async def draw(self, order: Order, plan: Plan, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """The plan's images in one batch."""
        told = plan.conditioning.repeat(len(seeds))
        return draw_images(self.model, told, seeds, steps=order.steps, guidance=plan.make_guidance(), scheduler=order.scheduler)

    async def ask(self, question: Callable[[Judge], Any]) -> Any:
        """What the judge answers."""
        return question(self.judge)


@dataclass(eq=False)
class NamedStrategy:
    """Changes nothing but the plan's history; counts how often it plans."""

    name: str
    forwards: int = 0
    prompt: str | None = None
    first_scale: float | None = None
    applied: int = 0

    def apply(self, plan: Plan, bench: Workbench) -> Plan:
        """The plan, told to be another."""
        self.applied += 1
        fields: dict[str, Any] = {}
        if self.prompt is not None:
            fields |= {"prompt": self.prompt, "conditioning": bench.model.encode([self.prompt])}
        if self.first_scale is not None:
            fields["first_scale"] = self.first_scale
        return plan.changed(self.name, forwards=self.forwards, changes=[f"gave up: {self.name}-word"], **fields)


@dataclass
class FakeDetector:
    """The detector's routes as far as the mitigator asks them."""

    score: float = 1.0
    threshold: float = 1e9
    verdicts: Callable[[int], tuple[str, float, float | None]] = lambda _question: ("none", 0.2, 1.0)
    away: bool = False
    answers: dict[str, Any] = field(default_factory=dict)  # by path, instead of what would be answered
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # by path: status and slug of a problem
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    def client(self) -> DetectorClient:
        """A client whose requests end here."""
        return DetectorClient("http://detector", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What the detector would say."""
        if self.away:
            raise httpx.ConnectError("away", request=request)
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked.append((path, body))
        self.traces.append(request.headers["traceparent"])
        if path in self.refusals:
            status, slug = self.refusals[path]
            return httpx.Response(status, json={"type": f"urn:lethe:problem:{slug}", "status": status, "detail": "No."})
        if path in self.answers:
            return httpx.Response(200, json=self.answers[path])
        if path == "/v1/screenings":
            return httpx.Response(200, json=self.screening())
        return httpx.Response(200, json=self.matching(body["images"]))

    def screening(self) -> dict[str, Any]:
        """One prompt's score."""
        result = {"decision": "mitigate", "score": self.score, "p_value": 0.01, "threshold": self.threshold, "reasons": []}
        return {"results": [result], "calibration": "cal_1", "control_median": 0.5}

    def matching(self, images: Sequence[str]) -> dict[str, Any]:
        """The same verdict for every image of a question."""
        for image in images:
            assert decode_png(base64.b64decode(image), max_pixels=10_000).shape == (32, 32)
        word, similarity, fidelity = self.verdicts(sum(path == "/v1/matches" for path, _ in self.asked) - 1)
        neighbours = [neighbour(similarity, word)]
        agreement: dict[str, Any] = {"value": fidelity, "asked": [], "seen": []}
        return {
            "matches": [neighbours for _ in images],
            "verdicts": [word for _ in images],
            "thresholds": {"copy": 0.8},
            "agreements": [agreement for _ in images],
        }


def neighbour(similarity: float, word: str) -> dict[str, Any]:
    """A training film that an image resembles."""
    return {"record": 1, "patient": "p1", "similarity": similarity, "tile_distance": 0.1, "verdict": word}
