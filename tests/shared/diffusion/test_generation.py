"""Images in batches: order, seeds, bounds of memory, and what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from shared.diffusion import generation
from shared.diffusion.generation import batch_size, count_generation, draw_images, draw_in_batches, generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.errors import InvalidRequestError, JobCancelledError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.diffusion.model import Conditioning
    from shared.diffusion.schedulers import SchedulerName

PROMPTS = ["chest X-ray, AP, cardiomegaly", "chest X-ray, PA, no finding", ""]


def images_of(model: Model, prompts: list[str], *, count: int = 1, seed: int = 0, scale: float = 3.0, steps: int = 3) -> NDArray[np.uint8]:
    return generate_images(model, prompts, images_per_prompt=count, seed=seed, steps=steps, guidance=ClassifierFreeGuidance(scale))


def test_images_of_one_prompt_stand_together_and_count_their_seeds_up(tiny_model: Model) -> None:
    images = images_of(tiny_model, PROMPTS, count=2, seed=5)
    assert images.shape == (6, 32, 32)
    assert images.dtype == np.uint8
    alone = images_of(tiny_model, [PROMPTS[1]], seed=6)
    assert np.abs(images[3].astype(int) - alone[0]).max() <= 1  # rounding of another batch shape


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3), count=st.integers(1, 3), size=st.integers(1, 4))
def test_image_does_not_depend_on_how_the_request_is_cut_into_batches(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, prompts: list[str], count: int, size: int
) -> None:
    whole = images_of(tiny_model, prompts, count=count)
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(generation, "batch_size", lambda _model: size)
        guidance = ClassifierFreeGuidance(3.0)
        cut = generate_images(tiny_model, prompts, images_per_prompt=count, seed=0, steps=3, guidance=guidance, on_batch=sizes.append)
    assert np.abs(whole.astype(int) - cut).max() <= 1
    assert sum(sizes) == len(whole)
    assert all(batch == size for batch in sizes[:-1])


def test_each_image_may_have_a_seed_of_its_own(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "BATCH_IMAGES", 2)
    told: list[int] = []
    guidance = ClassifierFreeGuidance(3.0)
    drawn = draw_in_batches(tiny_model, tiny_model.encode(PROMPTS), [7, 5, 9], steps=3, guidance=guidance, on_batch=told.append)
    assert told == [2, 1]
    for row, seed in enumerate([7, 5, 9]):
        assert np.abs(drawn[row].astype(int) - images_of(tiny_model, [PROMPTS[row]], seed=seed)[0]).max() <= 1  # rounding


def give_room(monkeypatch: pytest.MonkeyPatch, images: int) -> list[int]:
    """A device that has room for so many images at once, where batches are of three; answers the sizes that are tried."""
    sizes: list[int] = []
    whole = generation.draw_images

    def draw(model: Model, conditioning: Conditioning, seeds: Sequence[int], **words: Any) -> NDArray[np.uint8]:
        sizes.append(len(seeds))
        if len(seeds) > images:
            raise torch.OutOfMemoryError
        return whole(model, conditioning, seeds, **words)

    monkeypatch.setattr(generation, "BATCH_IMAGES", 3)
    monkeypatch.setattr(generation, "draw_images", draw)
    return sizes


def test_batch_without_room_on_the_device_is_drawn_in_halves_to_the_same_images(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = images_of(tiny_model, PROMPTS[:1], count=5)
    sizes, told = give_room(monkeypatch, 2), list[int]()
    guidance = ClassifierFreeGuidance(3.0)
    halved = generate_images(tiny_model, PROMPTS[:1], images_per_prompt=5, seed=0, steps=3, guidance=guidance, on_batch=told.append)
    assert np.abs(halved.astype(int) - undisturbed).max() <= 1  # rounding of another batch shape
    assert (sizes, told) == ([3, 1, 2, 2], [3, 2])


def test_batch_is_halved_once(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = give_room(monkeypatch, 1)
    with pytest.raises(torch.OutOfMemoryError):
        images_of(tiny_model, PROMPTS[:1], count=5)
    assert sizes == [3, 1, 2]


def test_seeds_wrap_where_json_numbers_end(tiny_model: Model) -> None:
    images = images_of(tiny_model, [""], count=2, seed=2**53 - 1, scale=1.0)
    assert np.abs(images[1].astype(int) - images_of(tiny_model, [""], seed=0, scale=1.0)[0]).max() <= 1


def test_unconditional_sampling_is_the_empty_prompt_without_guidance(tiny_model: Model) -> None:
    plain = images_of(tiny_model, [""], scale=1.0)
    guided = images_of(tiny_model, [""], scale=7.0)
    assert np.abs(plain.astype(int) - guided).max() <= 1  # prompt and empty prompt agree, so nothing pulls
    assert not np.array_equal(plain, images_of(tiny_model, [PROMPTS[0]], scale=7.0))


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_scheduler_draws_with_few_and_with_many_steps(tiny_model: Model, scheduler: SchedulerName, steps: int) -> None:
    guidance = ClassifierFreeGuidance(2.0)
    images = draw_images(tiny_model, tiny_model.encode(PROMPTS[:1]), [3], steps=steps, guidance=guidance, scheduler=scheduler)
    assert images.shape == (1, 32, 32)
    assert images.std() > 0


def test_stable_diffusion_folders_draw_grey_images(stable_diffusion_folder: Path) -> None:
    model = Model.load(stable_diffusion_folder, key="test")
    assert images_of(model, PROMPTS[:2]).shape == (2, 32, 32)


def test_prompt_over_the_window_is_refused_with_the_limit_before_anything_is_drawn(tiny_model: Model) -> None:
    def refuse(_count: int) -> None:
        raise AssertionError("a batch was drawn")

    guidance = ClassifierFreeGuidance(1.0)
    with pytest.raises(InvalidRequestError, match="the text encoder reads 64") as caught:
        generate_images(tiny_model, ["", "x " * 200], images_per_prompt=1, seed=0, steps=1, guidance=guidance, on_batch=refuse)
    assert caught.value.field == "prompts.1"


def test_observer_of_batches_may_stop_the_work(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "batch_size", lambda _model: 1)
    batches: list[int] = []

    def stop(count: int) -> None:
        batches.append(count)
        raise JobCancelledError

    guidance = ClassifierFreeGuidance(1.0)
    with pytest.raises(JobCancelledError):
        generate_images(tiny_model, PROMPTS, images_per_prompt=1, seed=0, steps=1, guidance=guidance, on_batch=stop)
    assert batches == [1]


@pytest.mark.parametrize(("side", "expected"), [(32, 32), (128, 32), (256, 8), (512, 2), (2048, 1)])
def test_large_images_are_drawn_fewer_at_a_time(tiny_model: Model, monkeypatch: pytest.MonkeyPatch, side: int, expected: int) -> None:
    monkeypatch.setattr(Model, "image_size", side)
    assert batch_size(tiny_model) == expected


def test_images_are_counted_by_mitigation_and_batches_by_size(tiny_model: Model) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0

    images, seconds = (
        value("lethe_images_generated_total", mitigation="none"),
        value("lethe_generation_duration_seconds_sum", mitigation="none"),
    )
    batches = value("lethe_sampler_batch_size_count")
    images_of(tiny_model, PROMPTS)
    count_generation(images=3, seconds=1.5, mitigation="none")
    assert value("lethe_images_generated_total", mitigation="none") == images + 3
    assert value("lethe_generation_duration_seconds_sum", mitigation="none") == seconds + 1.5
    assert value("lethe_sampler_batch_size_count") == batches + 1
