"""The detector's verdicts as the mitigator takes them: the worst counts, and half a verdict is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.mitigator.judge import DetectorJudge
from services.mitigator.mitigation import ImageVerdict, Screening
from shared.errors import NotFoundError, ScreenerUnavailableError
from tests.services.mitigator.doubles import FakeDetector, neighbour

IMAGES = np.zeros((2, 32, 32), dtype=np.uint8)
PROMPTS = ["left effusion", "left effusion"]


def matching(neighbours: list[dict[str, Any]], **other: Any) -> dict[str, Any]:
    """An answer about two images."""
    agreements = [{"value": 0.5}, {"value": 1.0}]
    return {"matches": [neighbours] * 2, "verdicts": ["none"] * 2, "thresholds": {"copy": 0.8}, "agreements": agreements} | other


def match(answer: dict[str, Any]) -> list[ImageVerdict]:
    """What the judge makes of an answer."""
    detector = FakeDetector(answers={"/v1/matches": answer})
    return DetectorJudge(detector.client()).match("ds_1", IMAGES, PROMPTS)


def test_screening_comes_with_the_figures_of_its_calibration() -> None:
    detector = FakeDetector(score=1.9, threshold=1.7)
    assert DetectorJudge(detector.client()).screen("mdl_1", "left effusion") == Screening(
        1.9, 1.7, 0.5, "cal_1", steps=1, seeds_per_prompt=4
    )
    ((path, body),) = detector.asked
    assert path == "/v1/screenings"
    assert (body["prompts"], body["steps"], body["seeds_per_prompt"], body["seed"]) == (["left effusion"], 1, 4, 0)


@pytest.mark.parametrize(
    ("words", "worst"),
    [
        (["none", "template", "same_patient", "copy"], "copy"),
        (["none", "same_patient", "template"], "same_patient"),
        (["none", "template"], "template"),
        (["none"], "none"),
    ],
)
def test_worst_verdict_and_highest_similarity_of_the_neighbours_count(words: list[str], worst: str) -> None:
    neighbours = [neighbour(0.3 + 0.1 * i, word) for i, word in enumerate(words)]
    first, second = match(matching(neighbours))
    assert first.verdict == worst
    assert first.similarity == pytest.approx(0.2 + 0.1 * len(words))
    assert (first.similarity_threshold, first.fidelity, second.fidelity) == (0.8, 0.5, 1.0)


def test_images_go_out_as_pictures_with_their_prompts() -> None:
    detector = FakeDetector()
    assert DetectorJudge(detector.client()).match("ds_1", IMAGES, PROMPTS) == [ImageVerdict(0.2, 0.8, "none", 1.0)] * 2
    ((_, body),) = detector.asked
    assert (body["dataset"], body["prompts"], len(body["images"])) == ("ds_1", PROMPTS, 2)


def test_prompt_that_asks_for_nothing_drawable_is_always_met() -> None:
    assert [v.fidelity for v in match(matching([neighbour(0.1, "none")], agreements=[{"value": None}] * 2))] == [1.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        matching([neighbour(0.1, "none")], agreements=None),
        matching([neighbour(0.1, "none")], agreements=[]),
        matching([neighbour(0.1, "none")], agreements=[None, None]),
        matching([neighbour(0.1, "none")], agreements=[{"value": 1.0}]),
        matching([neighbour(0.1, "none")], matches=[[neighbour(0.1, "none")]]),
        matching([neighbour(0.1, "none")], thresholds={}),
        matching([]),
        matching([neighbour(0.1, "unheard of")]),
        {},
    ],
)
def test_half_a_verdict_on_images_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(ScreenerUnavailableError):
        match(answer)


@pytest.mark.parametrize(
    "answer",
    [
        FakeDetector().screening() | {"results": []},
        FakeDetector().screening() | {"results": [{"score": "high"}]},
        FakeDetector().screening() | {"control_median": None},
        {"results": FakeDetector().screening()["results"], "calibration": "cal_1"},
        [],
    ],
)
def test_half_a_verdict_on_a_prompt_is_none(answer: Any) -> None:
    with pytest.raises(ScreenerUnavailableError):
        DetectorJudge(FakeDetector(answers={"/v1/screenings": answer}).client()).screen("mdl_1", "left effusion")


def test_detector_that_is_away_judges_nothing() -> None:
    judge = DetectorJudge(FakeDetector(away=True).client())
    with pytest.raises(ScreenerUnavailableError):
        judge.screen("mdl_1", "left effusion")
    with pytest.raises(ScreenerUnavailableError):
        judge.match("ds_1", IMAGES, PROMPTS)


def test_refusal_of_the_question_is_passed_on() -> None:
    detector = FakeDetector(refusals={"/v1/screenings": (404, "not-found")})
    with pytest.raises(NotFoundError):
        DetectorJudge(detector.client()).screen("mdl_1", "left effusion")
