"""The page of a search: its front, the recommended point, the masks that were tried, in one HTML file without any other."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.trainer.bar_charts import share_chart
from services.trainer.html_pages import page_template
from services.trainer.search.pictures import PICTURES, Drawing, picture_of, short_name
from services.trainer.search.search_spec import Constraint, SearchSpec
from services.trainer.search.trial import Trial
from shared.jobs.records import Job

_TEMPLATE: Final = "search.html"
_STATES: Final = {
    "succeeded": "trials finished",
    "pruned": "ended early",
    "failed": "failed",
    "cancelled": "cancelled",
    "running": "running",
}


def render_search(job: Job, summary: Mapping[str, Any] | None, trials: Sequence[Trial]) -> str:
    """The page of a search as far as it is; without a summary, what was asked for."""
    spec = SearchSpec.model_validate(job.spec)
    found = summary if summary is not None else {"pareto": [], "recommended": None, "hypervolume": [], "objectives": {}}
    drawing = Drawing(summary, trials) if summary is not None else None
    counts = [(sum(trial.state == state for trial in trials), what) for state, what in _STATES.items()]
    return page_template(_TEMPLATE).render(
        name=spec.training.name,
        state=_state(job, spec, trials),
        counts=[(count, what) for count, what in counts if count],
        steps=sum(trial.steps for trial in trials),
        share=found["hypervolume"][-1][1] if found["hypervolume"] else None,
        columns=[(name, _better(found["objectives"].get(name))) for name in spec.rewards],
        beside=[] if summary is None else _beside_trials(summary, spec),
        front=[_point(point, trials) for point in found["pareto"]],
        recommended=None if found["recommended"] is None else _point(found["recommended"], trials) | {"rule": found["recommended"]["rule"]},
        pictures={} if drawing is None else {name: _inline(picture_of(name, drawing)) for name in PICTURES},
        modules=[] if summary is None else [(short_name(module), module) for module in summary["modules"]],
        importance=[] if summary is None else _importance(summary),
        importance_lacks=None if summary is None else summary["importance"]["reason"],
        endings=[trial for trial in trials if trial.state in {"failed", "cancelled"}],
        facts=_facts(job, spec),
    )


def _state(job: Job, spec: SearchSpec, trials: Sequence[Trial]) -> str:
    over = sum(trial.state != "running" for trial in trials)
    return f"{job.state}, {over} of {spec.trials} trials are over" if job.state in {"queued", "running"} else job.state


def _better(direction: str | None) -> str:
    """Which way an objective goes; what is only bounded goes none."""
    return {"minimize": "less is better", "maximize": "more is better", None: "bounded"}[direction]


def _point(point: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """A point of the front as a row tells it."""
    origin = next((trial.choice.origin for trial in trials if trial.number == point["trial"]), "")
    return {
        "trial": point["trial"],
        "kind": point["kind"],
        "origin": origin,
        "rate": f"{point['learning_rate']:.3g}",
        "blocks": [short_name(name) for name in point["blocks"]],
        "ranks": [rank for rank in point["ranks"] or [] if rank],
        "beside": _beside(point),
        "values": {name: _figure(value, point["intervals"][name]) for name, value in point["values"].items()},
        "trainable": point["trainable_parameters"],
        "fraction": point["trainable_fraction"],
        "model": point["model"],
    }


def _beside_trials(summary: Mapping[str, Any], spec: SearchSpec) -> list[dict[str, Any]]:
    """What trials are held against, as rows: the untuned base, and real films in the place of images."""
    base, floors = summary["base"], summary["floors"] or {}
    rows: list[tuple[str, dict[str, tuple[str, str]], str]] = []
    if base is not None:
        rows.append(
            ("untuned base", {name: _figure(value, base["intervals"][name]) for name, value in base["values"].items()}, spec.training.base)
        )
    if floors.keys() & set(spec.rewards):
        rows.append(("real films", {name: (f"{value:.4g}", "floor") for name, value in floors.items()}, ""))
    return [{"what": what, "cells": [told.get(name, ("", "")) for name in spec.rewards], "model": model} for what, told, model in rows]


def _importance(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A chart an objective: which choices its differences come from, the largest share first."""
    return [
        (name, share_chart(f"Shares in {name}", {_choice_name(choice): share for choice, share in shares.items()}))
        for name, shares in summary["importance"]["objectives"].items()
    ]


def _choice_name(choice: str) -> str:
    """An attention module's short name, or the choice's own."""
    return short_name(choice) if "." in choice else choice.replace("_", " ")


def _beside(point: Mapping[str, Any]) -> list[str]:
    """Batch filter and captions, by their kinds."""
    filters = [] if point["batch_filter"] is None else [f"batch filter {point['batch_filter']['kind']}"]
    return filters + [f"captions {rule['kind']}" for rule in point["captions"]]


def _figure(value: float, interval: Sequence[float]) -> tuple[str, str]:
    """A value, and its interval."""
    low, high = interval
    return f"{value:.4g}", f"{low:.3g} – {high:.3g}"


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _facts(job: Job, spec: SearchSpec) -> list[tuple[str, str]]:
    """What was asked for; prompts are no part of it."""
    training, effort = spec.training, spec.evaluation
    told = [
        ("id", job.id),
        ("asked for", f"{job.created:%Y-%m-%d %H:%M} UTC"),
        ("base", training.base),
        ("data set", training.dataset),
        ("space", spec.space),
        ("rates", "; ".join(f"{kind} {_rates(spec.rates_of(kind))}" for kind in spec.kinds)),
        ("each trial", f"{training.steps:,} steps of {training.batch_size * training.gradient_accumulation} films"),
        ("trials", f"{spec.trials}, {spec.parallel} at once; chosen by {spec.sampler}{', after warm starts' if spec.warm_starts else ''}"),
        ("ended early", "none" if spec.pruning is None else f"after {_steps(spec)} steps all but the best {spec.pruning.keep:.0%}"),
        ("objectives", ", ".join(spec.objectives)),
    ]
    if spec.constraints:
        told.append(("constraints", ", ".join(map(_bound, spec.constraints))))
    measured = (
        f"{effort.images_per_canary} images of each canary, of {effort.control_prompts} control prompts at most, {effort.sampling_steps} "
        f"denoising steps, guidance {effort.guidance_scale:g}, {effort.noises} noises a film"
    )
    return [*told, ("measured with", measured), ("seed", str(spec.seed))]


def _rates(rates: Sequence[float]) -> str:
    return f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g} in {len(rates)} steps"


def _steps(spec: SearchSpec) -> str:
    return " and ".join(f"{step:,}" for step in spec.rung_steps[:-1])


def _bound(constraint: Constraint) -> str:
    return (
        f"{constraint.reward} ≤ {constraint.at_most:g}"
        if constraint.at_most is not None
        else f"{constraint.reward} ≥ {constraint.at_least:g}"
    )
