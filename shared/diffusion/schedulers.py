"""Which timesteps are visited and how one step is made: schedulers of diffusers, fed with epsilon."""

from __future__ import annotations

from typing import Any, Final, Literal

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

SchedulerName = Literal["ddim", "dpm-solver++", "euler"]

SCHEDULERS: Final[dict[SchedulerName, tuple[Any, dict[str, Any]]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
}


def make_scheduler(name: SchedulerName, config: dict[str, Any], steps: int) -> Any:
    """A fresh scheduler with `steps` timesteps set; it expects epsilon because `Model.predict_noise` always answers epsilon."""
    scheduler_class, options = SCHEDULERS[name]
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    scheduler = scheduler_class.from_config(plain | options | {"prediction_type": "epsilon"})
    scheduler.set_timesteps(steps)
    return scheduler
