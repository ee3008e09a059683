"""What a training tells: steps, figures, curves; and that it counts on after an interruption."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from services.trainer import training_progress
from services.trainer.training_progress import FINAL_STEPS, Progress
from shared.diffusion.checkpoints import State
from shared.errors import InvalidRequestError


class Watched:
    """A context that keeps what is reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int, str, dict[str, float]]] = []

    def report(self, step: int, total: int, message: str, **values: float) -> None:
        self.reports.append((step, total, message, values))


def progress(total: int, phase: str = "denoiser", images_per_step: int = 0) -> tuple[Progress, Watched]:
    watched: Any = Watched()
    told = Progress(watched, total=total)
    told.begin_phase(phase, images_per_step)
    return told, watched


def clock(monkeypatch: pytest.MonkeyPatch, tick: float = 1 / 64) -> None:
    """A clock that goes on by a tick at each look."""
    ticks = iter(np.arange(1, 10_000) * tick)
    monkeypatch.setattr(training_progress, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def test_every_step_is_reported_and_losses_are_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    told, watched = progress(200, images_per_step=16)
    reads: list[int] = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: reads.append(len(tensors)) or stack(tensors))
    for step in range(1, 201):
        told(step, 200, "denoiser", torch.tensor(1.0))
    assert [report[0] for report in watched.reports] == list(range(1, 201))
    assert reads == [32] * 6 + [8]  # six half seconds, and the last step
    assert watched.reports[-1][3] == {"loss": 1.0, "step_seconds": 1 / 64, "images_per_second": 1024.0}


def test_speed_of_a_training_that_goes_on_is_of_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    told, watched = progress(2000, images_per_step=16)
    for step in range(1001, 1033):
        told(step, 2000, "denoiser", torch.tensor(1.0))
    assert "step_seconds" not in watched.reports[30][3]
    assert watched.reports[31][3] == {"loss": 1.0, "step_seconds": 1 / 64, "images_per_second": 1024.0}


def test_phases_count_on_in_one_total() -> None:
    told, watched = progress(5, "autoencoder")
    for step in (1, 2):
        told(step, 2, "autoencoder", torch.tensor(4.0))
    told.end_phase(2)
    told.begin_phase("denoiser")
    for step in (1, 2, 3):
        told(step, 3, "denoiser", torch.tensor(float(step)))
    told.end_phase(3)
    assert (told.mean_loss("autoencoder"), told.mean_loss("denoiser")) == (4.0, 2.0)
    assert watched.reports[-1][:3] == (5, 5, "training the denoiser")
    assert told.loss_curves() == [
        {"phase": "autoencoder", "steps": 2, "points": [(1, 4.0), (2, 4.0)]},
        {"phase": "denoiser", "steps": 3, "points": [(1, 1.0), (2, 2.0), (3, 3.0)]},
    ]


def test_phase_with_nothing_to_learn_has_no_loss() -> None:
    told, _ = progress(1, "text encoder")
    told.end_phase(1)
    assert told.mean_loss("text encoder") is None
    assert told.loss_curves() == []


def test_final_loss_is_the_mean_of_the_last_steps() -> None:
    told, _ = progress(1000)
    for step in range(1, 301):
        told(step, 1000, "denoiser", torch.tensor(100.0 if step <= 200 else 2.0))
    told.end_phase(300)
    assert (FINAL_STEPS, told.mean_loss("denoiser")) == (100, 2.0)


def test_training_that_diverged_stops_and_says_what_to_lower() -> None:
    told, _ = progress(1)
    with pytest.raises(InvalidRequestError, match="lower learning_rate") as caught:
        told(1, 1, "denoiser", torch.tensor(float("nan")))
    assert caught.value.field == "learning_rate"


def test_divergence_between_two_readings_is_noticed() -> None:
    told, _ = progress(3)
    told(1, 3, "denoiser", torch.tensor(float("inf")))
    with pytest.raises(InvalidRequestError, match="diverged"):
        told(3, 3, "denoiser", torch.tensor(1.0))


def test_checkpoints_are_told_with_their_age(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, tick=0.25)
    told, watched = progress(3)
    told(1, 3, "denoiser", torch.tensor(1.0))
    assert "checkpoint_step" not in watched.reports[-1][3]
    told.note_kept(1, upload_seconds=0.5, stall_seconds=0.01)
    told(2, 3, "denoiser", torch.tensor(1.0))
    told(3, 3, "denoiser", torch.tensor(1.0))
    values = watched.reports[-1][3]
    assert (values["checkpoint_step"], values["checkpoint_age_seconds"]) == (1, 0.5)
    assert (values["checkpoint_upload_seconds"], values["checkpoint_stall_seconds"]) == (0.5, 0.01)


def test_progress_goes_on_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    losses = np.random.default_rng(0).random(9).tolist()
    whole, _ = progress(12, "autoencoder")
    parts = [progress(12, "autoencoder")[0]]
    for told in (whole, parts[0]):
        for step in (1, 2, 3):
            told(step, 3, "autoencoder", torch.tensor(losses[step]))
        told.end_phase(3)
        told.begin_phase("denoiser")
    for step in range(1, 10):
        if step == 5:
            kept = parts[0].state().copied()
            parts.append(progress(12)[0])
            parts[1].restore(State(kept.tensors, json.loads(json.dumps(kept.facts))))
            parts[1].begin_phase("denoiser")
        for told in (whole, parts[-1]):
            told(step, 9, "denoiser", torch.tensor(losses[step - 1]))
    for told in (whole, parts[1]):
        told.end_phase(9)
    assert parts[1].loss_curves() == whole.loss_curves()
    assert parts[1].mean_loss("denoiser") == whole.mean_loss("denoiser")
    assert parts[1].mean_loss("autoencoder") == whole.mean_loss("autoencoder")
    assert parts[1].done_before == whole.done_before == 12
    assert parts[1].seconds > parts[1].seconds_of("denoiser") > 0


def test_losses_of_steps_taken_elsewhere_are_in_curve_and_mean() -> None:
    told, watched = progress(4)
    told.add([3.0, 1.0])
    told.add([])
    told.add([2.0])
    told.end_phase(4)
    assert told.loss_curves() == [{"phase": "denoiser", "steps": 3, "points": [(1, 3.0), (2, 1.0), (3, 2.0)]}]
    assert told.mean_loss("denoiser") == 2.0
    assert watched.reports == []
