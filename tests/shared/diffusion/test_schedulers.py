"""Schedulers: which timesteps are visited, and what a folder's silence means."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from services.trainer.architectures import stable_diffusion_schedule
from shared.diffusion.schedulers import SCHEDULERS, SchedulerName, make_scheduler
from shared.errors import InvalidRequestError

SD = stable_diffusion_schedule()
SILENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def test_every_name_of_the_contract_is_made() -> None:
    assert set(SCHEDULERS) == set(get_args(SchedulerName))


@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [("leading", [981, 961, 941], [41, 21, 1]), ("trailing", [999, 979, 959], [59, 39, 19]), ("linspace", [999, 979, 958], [41, 20, 0])],
)
def test_ddim_visits_the_timesteps_of_its_spacing(spacing: str, first: list[int], last: list[int]) -> None:
    timesteps = make_scheduler("ddim", SD | {"timestep_spacing": spacing}, 50).timesteps.tolist()
    assert len(timesteps) == 50
    assert (timesteps[:3], timesteps[-3:]) == (first, last)


@pytest.mark.parametrize("config", [SD, SILENT])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_silent_and_explicit_folders_visit_the_same_timesteps(name: SchedulerName, config: dict[str, Any]) -> None:
    assert [int(t) for t in make_scheduler(name, config, 50).timesteps] == list(range(981, 0, -20))


@pytest.mark.parametrize("name", get_args(SchedulerName))
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_whole_numbers(name: SchedulerName, spacing: str) -> None:
    timesteps = make_scheduler(name, SD | {"timestep_spacing": spacing}, 7).timesteps
    assert torch.equal(timesteps.double(), timesteps.double().round())
    assert all(0 <= int(t) < 1000 for t in timesteps)


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_scheduler_expects_epsilon_whatever_the_network_predicts(name: SchedulerName) -> None:
    assert make_scheduler(name, SD | {"prediction_type": "v_prediction"}, 5).config.prediction_type == "epsilon"


def test_latents_are_not_clipped_where_the_folder_is_silent() -> None:
    scheduler = make_scheduler("ddim", SILENT, 50)
    assert scheduler.config.clip_sample is False
    x = torch.full((1, 4, 2, 2), 5.0)
    assert float(scheduler.step(torch.zeros_like(x), 1, x).prev_sample.max()) > 4.9


def test_each_call_gives_a_fresh_scheduler() -> None:
    left, right = (make_scheduler("dpm-solver++", SD, 5) for _ in range(2))
    left.step(torch.ones(1, 4, 2, 2), left.timesteps[0], torch.ones(1, 4, 2, 2))
    assert left.step_index == 1
    assert right.step_index is None


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_zero_terminal_snr_is_refused(name: SchedulerName) -> None:
    with pytest.raises(InvalidRequestError, match="zero signal-to-noise"):
        make_scheduler(name, SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 50)


def test_rescaled_schedule_that_starts_below_the_zero_is_accepted() -> None:
    assert int(make_scheduler("ddim", SD | {"rescale_betas_zero_snr": True}, 50).timesteps[0]) == 981
