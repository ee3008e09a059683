"""Matching: answers as they were alone, one pass for requests that come together, and nothing bad reaches it."""

from __future__ import annotations

import asyncio
import base64
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.detector import matching
from services.detector.gallery_library import GalleryLibrary
from services.detector.matching import Matcher
from services.detector.schemas import MatchAnswer, MatchRequest
from shared.diffusion.lane import ComputeLane
from shared.diffusion.waiting import MAX_WAITING
from shared.errors import ConflictError, InvalidRequestError, SaturatedError
from shared.imaging.png import encode_png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from shared.catalog import Catalog
    from shared.memorization.galleries import Gallery
    from tests.fixtures.judging import JudgingHome


def in_base64(image_HW: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(image_HW)).decode()


@pytest.fixture
async def lane(anyio_backend: str) -> AsyncIterator[ComputeLane]:
    del anyio_backend
    opened = ComputeLane()
    yield opened
    opened.close()


@pytest.fixture
async def matcher(judging_catalog: Catalog, lane: ComputeLane) -> AsyncIterator[Matcher]:
    with closing(ComputeLane()) as reading:
        made = Matcher(galleries=GalleryLibrary(judging_catalog), lane=lane, reading=reading)
        async with made.batcher.serving():
            yield made


def asked(home: JudgingHome, *images: NDArray[np.uint8], **more: Any) -> MatchRequest:
    return MatchRequest(dataset=home.stocked.dataset.id, images=[in_base64(image) for image in images], **more)


async def test_answer_tells_verdicts_thresholds_and_agreements(matcher: Matcher, judging_home: JudgingHome, gallery: Gallery) -> None:
    answer = await matcher.match(asked(judging_home, gallery.codes.images_NHW[2], k=3, prompts=["chest radiograph"]))
    assert (answer.verdicts, len(answer.matches[0])) == (["copy"], 3)
    assert answer.thresholds == judging_home.gallery.thresholds
    assert answer.agreements is not None
    assert (answer.agreements[0].value, answer.agreements[0].asked) == (None, [])


async def test_each_image_is_counted_once_with_its_verdict(matcher: Matcher, judging_home: JudgingHome, gallery: Gallery) -> None:
    copies = REGISTRY.get_sample_value("lethe_images_matched_total", {"verdict": "copy"}) or 0
    nearest = REGISTRY.get_sample_value("lethe_image_similarity_sum") or 0
    await matcher.match(asked(judging_home, *gallery.codes.images_NHW[:2], k=1))
    assert REGISTRY.get_sample_value("lethe_images_matched_total", {"verdict": "copy"}) == copies + 2
    assert REGISTRY.get_sample_value("lethe_image_similarity_sum") == pytest.approx(nearest + 2, abs=1e-3)


async def test_requests_that_arrive_together_share_a_pass_and_get_what_they_got_alone(
    matcher: Matcher, lane: ComputeLane, judging_home: JudgingHome, gallery: Gallery
) -> None:
    films = gallery.codes.images_NHW
    requests = [
        asked(judging_home, films[0], 255 - films[1], prompts=["AP chest radiograph", "left pleural effusion"]),
        asked(judging_home, films[2]),
        asked(judging_home, films[3], prompts=["chest radiograph, edema"]),
        asked(judging_home, films[4], k=2),
    ]
    alone = [await matcher.match(request) for request in requests]
    together: dict[int, MatchAnswer] = {}

    async def ask(number: int) -> None:
        together[number] = await matcher.match(requests[number])

    with mock.patch.object(matching, "candidates", wraps=matching.candidates) as searches:
        async with anyio.create_task_group() as group:
            go, before = threading.Event(), waiting()
            group.start_soon(lane.run, go.wait)
            for number in range(len(requests)):
                group.start_soon(ask, number)
            with anyio.fail_after(30):
                while waiting() < before + len(requests):  # noqa: ASYNC110 - the batcher tells nobody
                    await anyio.sleep(0.005)
            go.set()
    assert sorted(len(call.args[1]) for call in searches.call_args_list) == [1, 4]  # another k is another search
    for number, expected in enumerate(alone):
        assert plain(together[number]) == close_to(plain(expected))


def waiting() -> float:
    return REGISTRY.get_sample_value("lethe_requests_waiting") or 0.0


def plain(answer: MatchAnswer) -> Any:
    return answer.model_dump(mode="json")


def close_to(value: Any) -> Any:
    """The same, but for the last digits of its numbers."""
    if isinstance(value, dict):
        return {name: close_to(each) for name, each in value.items()}
    if isinstance(value, list):
        return [close_to(each) for each in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


async def test_what_cannot_be_looked_for_waits_for_nothing(matcher: Matcher, lane: ComputeLane, judging_home: JudgingHome) -> None:
    film = np.zeros((64, 64), dtype=np.uint8)
    mismatched = asked(judging_home, film, film, prompts=["one"])
    broken = MatchRequest(dataset=judging_home.stocked.dataset.id, images=["QUJD"])
    go = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lane.run, go.wait)
        with anyio.fail_after(30):
            for request, told in ((mismatched, "1 for 2 images"), (broken, "image 0")):
                with pytest.raises(InvalidRequestError, match=told):
                    await matcher.match(request)
        go.set()


async def test_gallery_that_is_slow_to_load_keeps_no_other_request_waiting(
    matcher: Matcher, judging_home: JudgingHome, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go = threading.Event(), threading.Event()

    def load(*_: object) -> Gallery:
        loading.set()
        assert go.wait(30)
        return gallery

    monkeypatch.setattr("services.detector.gallery_library.load_gallery", load)
    before = waiting()
    async with anyio.create_task_group() as group:
        for _ in range(MAX_WAITING + 1):  # more than the event loop has threads, which whoever is let in and recorded needs
            group.start_soon(matcher.match, asked(judging_home, gallery.codes.images_NHW[0]))
        try:
            with anyio.fail_after(30):
                await anyio.to_thread.run_sync(loading.wait)
                await asyncio.to_thread(lambda: None)
            with pytest.raises(SaturatedError):
                await matcher.match(asked(judging_home, gallery.codes.images_NHW[0]))
        finally:
            go.set()
    assert waiting() == before


async def test_data_set_without_gallery_is_refused(matcher: Matcher, judging_home: JudgingHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.detector.gallery_library.gallery_of", lambda *_: None)
    with pytest.raises(ConflictError, match="no gallery yet"):
        await matcher.match(asked(judging_home, np.zeros((64, 64), dtype=np.uint8)))
