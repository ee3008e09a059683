"""Which timesteps are visited and how one step is made: schedulers of diffusers, fed with epsilon."""

from __future__ import annotations

from typing import Any, Final, Literal

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from shared.errors import InvalidRequestError

SchedulerName = Literal["ddim", "dpm-solver++", "euler"]

SMALLEST_SIGNAL: Final = 1e-3  # √ᾱ below this: x_t holds no image, and ε_c equals ε_u by construction (zero terminal SNR)
DEFAULTS: Final = {  # where a folder's configuration is silent, the schedulers' own defaults differ
    "timestep_spacing": "leading",  # all schedulers visit the same timesteps
    "clip_sample": False,  # latents reach beyond [-1, 1]
}
SCHEDULERS: Final[dict[SchedulerName, tuple[Any, dict[str, Any]]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
}


def make_scheduler(name: SchedulerName, config: dict[str, Any], steps: int) -> Any:
    """A fresh scheduler with `steps` timesteps set; it expects epsilon because `Model.predict_noise` always answers epsilon."""
    scheduler_class, options = SCHEDULERS[name]
    plain = DEFAULTS | {key: value for key, value in config.items() if not key.startswith("_")}
    if name == "euler" and plain["timestep_spacing"] == "linspace":  # would visit fractions of timesteps, for which ᾱ_t has no entry
        plain |= {"timestep_spacing": "leading"}
    scheduler = scheduler_class.from_config(plain | options | {"prediction_type": "epsilon"})
    scheduler.set_timesteps(steps)
    if float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])]) ** 0.5 < SMALLEST_SIGNAL:
        raise InvalidRequestError("the schedule begins at zero signal-to-noise ratio, where a noise prediction says nothing of the image")
    return scheduler
