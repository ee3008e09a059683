"""Write the dashboards beside this file as Grafana reads them; `make dashboards` does it, and a test compares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).parent / "dashboards"
DATASOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
WIDTH: Final = 24  # of Grafana's grid
QUANTILES: Final = ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
SCREENED_OVER: Final = 'lethe_prompts_screened_total{verdict=~"mitigate|block"}'
# What a value of 0 or 1 stands for.
YES_NO: Final = [{"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}}]


@dataclass(frozen=True)
class Panel:
    """One picture: what it is called, in which unit, and (expression, legend) of each of its curves."""

    title: str
    unit: str
    curves: Sequence[tuple[str, str]]
    description: str
    kind: Literal["timeseries", "stat"] = "timeseries"
    mappings: Sequence[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Dashboard:
    """Panels that belong together."""

    name: str
    title: str
    panels: Sequence[Panel]


def quantile(share: float, histogram: str, *by: str) -> str:
    """The quantile of a histogram over the last minutes."""
    return f"histogram_quantile({share}, sum by ({', '.join([*by, 'le'])}) (rate({histogram}[$__rate_interval])))"


def per_second(counter: str, *by: str) -> str:
    """How fast a counter grows."""
    return f"sum by ({', '.join(by)}) (rate({counter}[$__rate_interval]))"


OVERVIEW: Final = Dashboard(
    "overview",
    "Lethe: overview",
    [
        Panel(
            "Ready",
            "none",
            [("min by (service) (lethe_ready)", "{{service}}")],
            "Whether each service wants work.",
            kind="stat",
            mappings=YES_NO,
        ),
        Panel("Jobs running", "none", [('sum(max by (kind) (lethe_jobs{state="running"}))', "jobs")], "All kinds together.", kind="stat"),
        Panel("Jobs waiting", "none", [('sum(max by (kind) (lethe_jobs{state="queued"}))', "jobs")], "All kinds together.", kind="stat"),
        Panel(
            "Build",
            "none",
            [("count by (version, revision) (lethe_build_info)", "{{version}} {{revision}}")],
            "Which runs how often.",
            kind="stat",
        ),
        Panel("Requests", "reqps", [(per_second("lethe_http_requests_total", "service"), "{{service}}")], "Answered, by service."),
        Panel(
            "Requests by status",
            "reqps",
            [(per_second("lethe_http_requests_total", "code"), "{{code}}")],
            "499: the caller went away before the answer.",
        ),
        Panel(
            "Time to answer, 95th percentile",
            "s",
            [(quantile(0.95, "lethe_http_request_duration_seconds_bucket", "service"), "{{service}}")],
            "Over 10 s are shown as 10 s.",
        ),
        Panel(
            "Problems",
            "reqps",
            [(per_second("lethe_problems_total", "problem") + " > 0", "{{problem}}")],
            "What was answered instead of a result; docs/http.md has the slugs.",
        ),
        Panel(
            "Refused before any work",
            "reqps",
            [(per_second("lethe_requests_rejected_total", "service", "reason") + " > 0", "{{service}} {{reason}}")],
            "Over quota, over a limit, queue full, or a body that is not read.",
        ),
        Panel(
            "Credentials refused",
            "reqps",
            [(per_second("lethe_auth_failures_total", "service", "reason"), "{{service}} {{reason}}")],
            "By reason; nothing while authentication is off.",
        ),
        Panel(
            "Audit events",
            "ops",
            [(per_second("lethe_audit_events_total", "action", "outcome"), "{{action}} {{outcome}}")],
            "Written to the audit log.",
        ),
        Panel(
            "Memory",
            "bytes",
            [('process_resident_memory_bytes{job="lethe"}', "{{service}} {{instance}}")],
            "Of each service's own process.",
        ),
        Panel(
            "Processor",
            "none",
            [('rate(process_cpu_seconds_total{job="lethe"}[$__rate_interval])', "{{service}} {{instance}}")],
            "Cores that each service's own process keeps busy; jobs are processes of their own.",
        ),
    ],
)

TRAINING: Final = Dashboard(
    "training",
    "Lethe: training",
    [
        Panel("Loss", "none", [("lethe_training_loss", "slot {{slot}}")], "At the last reported step of each running training."),
        Panel("Films learnt from", "none", [("lethe_training_images_per_second", "slot {{slot}}")], "In a second."),
        Panel(
            "Step, median and 95th percentile",
            "s",
            [
                (quantile(0.5, "lethe_training_step_seconds_bucket", "slot"), "slot {{slot}} median"),
                (quantile(0.95, "lethe_training_step_seconds_bucket", "slot"), "slot {{slot}} 95 %"),
            ],
            "As reported; between two reports the mean.",
        ),
        Panel(
            "Age of the newest checkpoint",
            "s",
            [
                ("time() - lethe_checkpoint_last_success_timestamp_seconds", "slot {{slot}}"),
                ("2 * max(lethe_checkpoint_interval_seconds)", "too old"),
            ],
            "What is lost if the training's process ends now.",
        ),
        Panel(
            "Checkpoint to store, 95th percentile",
            "s",
            [(quantile(0.95, "lethe_checkpoint_upload_seconds_bucket"), "upload")],
            "The training goes on meanwhile.",
        ),
        Panel("Trials of searches", "none", [("lethe_search_trials", "slot {{slot}} {{state}}")], "Of each running search, by state."),
        Panel(
            "Trainings and searches",
            "none",
            [('max by (kind, state) (lethe_jobs{kind=~"training|search", state=~"queued|running"})', "{{kind}} {{state}}")],
            "Under way and waiting.",
        ),
        Panel(
            "Processes lost",
            "none",
            [('sum by (kind) (increase(lethe_jobs_reclaimed_total{service="trainer"}[1h]))', "{{kind}}")],
            "Within an hour; their jobs go on from the last checkpoint.",
        ),
    ],
)

JUDGING: Final = Dashboard(
    "judging",
    "Lethe: drawing and judging",
    [
        Panel(
            "Prompts over the threshold",
            "percentunit",
            [
                (
                    f"{per_second(SCREENED_OVER)} / {per_second('lethe_prompts_screened_total')}",
                    "share",
                )
            ],
            "Of all that were screened.",
        ),
        Panel("Prompts screened", "reqps", [(per_second("lethe_prompts_screened_total", "verdict"), "{{verdict}}")], "By verdict."),
        Panel(
            "Score",
            "none",
            [(quantile(share, "lethe_memorization_score_bucket", "detector"), f"{{{{detector}}}} {legend}") for share, legend in QUANTILES],
            "Of screened prompts; compare with the threshold of the model's calibration.",
        ),
        Panel("Images matched", "reqps", [(per_second("lethe_images_matched_total", "verdict"), "{{verdict}}")], "Against training films."),
        Panel(
            "Similarity to the nearest film",
            "none",
            [(quantile(share, "lethe_image_similarity_bucket"), legend) for share, legend in QUANTILES],
            "Of matched images.",
        ),
        Panel(
            "Screening, time to answer",
            "s",
            [
                (quantile(share, 'lethe_http_request_duration_seconds_bucket{route="/v1/screenings"}'), legend)
                for share, legend in QUANTILES
            ],
            "Of whole requests.",
        ),
        Panel(
            "Prompts a pass",
            "none",
            [(quantile(0.5, "lethe_screening_batch_size_bucket"), "median"), (quantile(0.95, "lethe_screening_batch_size_bucket"), "95 %")],
            "How many prompts share one pass of the network.",
        ),
        Panel("Images handed out", "none", [(per_second("lethe_images_generated_total", "mitigation"), "{{mitigation}}")], "In a second."),
        Panel(
            "Drawing, 95th percentile",
            "s",
            [(quantile(0.95, "lethe_generation_duration_seconds_bucket", "mitigation"), "{{mitigation}}")],
            "From the start of a request's work to its last image.",
        ),
        Panel(
            "Images a pass",
            "none",
            [(quantile(0.5, "lethe_sampler_batch_size_bucket"), "median"), (quantile(0.95, "lethe_sampler_batch_size_bucket"), "95 %")],
            "How many images are drawn at once.",
        ),
        Panel(
            "Requests waiting",
            "none",
            [("sum by (service) (lethe_requests_waiting)", "{{service}}")],
            "For a batch, or for what it answers.",
        ),
        Panel("Models held", "bytes", [("lethe_model_memory_bytes", "{{service}} {{instance}}")], "Parameters and buffers."),
        Panel(
            "Models loaded and given up",
            "none",
            [
                ("sum by (service) (increase(lethe_model_load_duration_seconds_count[1h]))", "{{service}} loaded"),
                ("sum by (service) (increase(lethe_models_evicted_total[1h]))", "{{service}} given up"),
            ],
            "Within an hour; many of both mean too little room (LETHE_MODEL_MEMORY_BYTES).",
        ),
        Panel(
            "Batches halved",
            "none",
            [("sum by (service) (increase(lethe_batches_halved_total[1h]))", "{{service}}")],
            "Within an hour: they did not fit into the device's memory.",
        ),
        Panel(
            "Mitigations refused",
            "none",
            [("sum by (mitigation) (increase(lethe_mitigations_refused_total[1h]))", "{{mitigation}}")],
            "Within an hour: no strategy made the images safe.",
        ),
    ],
)

STORAGE_AND_JOBS: Final = Dashboard(
    "storage-and-jobs",
    "Lethe: storage and jobs",
    [
        Panel(
            "Damaged objects",
            "none",
            [("sum by (kind) (increase(lethe_storage_verification_failures_total[24h]))", "{{kind}}")],
            "Reads within a day whose bytes were not what was committed.",
            kind="stat",
        ),
        Panel(
            "What the store lacks",
            "none",
            [('max by (store, capability) (lethe_storage_capability_info{present="false"}) == 1', "{{store}} {{capability}}")],
            "By the probe at the start of a service.",
            kind="stat",
        ),
        Panel(
            "Storage operations",
            "ops",
            [(per_second("lethe_storage_operation_duration_seconds_count", "op", "outcome"), "{{op}} {{outcome}}")],
            "By how they ended.",
        ),
        Panel(
            "Storage, 95th percentile",
            "s",
            [(quantile(0.95, "lethe_storage_operation_duration_seconds_bucket", "op"), "{{op}}")],
            "Duration of one operation.",
        ),
        Panel(
            "Jobs",
            "none",
            [("max by (kind, state) (lethe_jobs)", "{{kind}} {{state}}")],
            "From the database; every replica tells the same.",
        ),
        Panel("Oldest waiting job", "s", [("max by (kind) (lethe_job_queue_oldest_age_seconds)", "{{kind}}")], "How long it has waited."),
        Panel("Slots", "none", [("sum by (service, state) (lethe_executor_slots)", "{{service}} {{state}}")], "Of what runs the jobs."),
        Panel(
            "Jobs ended",
            "none",
            [("sum by (kind, outcome) (increase(lethe_job_duration_seconds_count[1h]))", "{{kind}} {{outcome}}")],
            "Within an hour.",
        ),
        Panel(
            "Duration of jobs, median",
            "s",
            [(quantile(0.5, "lethe_job_duration_seconds_bucket", "kind"), "{{kind}}")],
            "From start to end.",
        ),
        Panel("Processes lost", "none", [("sum by (kind) (increase(lethe_jobs_reclaimed_total[1h]))", "{{kind}}")], "Within an hour."),
        Panel(
            "Audit events not written",
            "none",
            [("sum by (service) (increase(lethe_audit_write_failures_total[1h]))", "{{service}}")],
            "Within an hour; what they would have told was not done.",
        ),
        Panel(
            "Anchors of the audit log not written",
            "none",
            [("sum by (service) (increase(lethe_audit_anchor_failures_total[1h]))", "{{service}}")],
            "Within an hour; each is tried again.",
        ),
        Panel("Memory of the device", "bytes", [("lethe_gpu_memory_bytes", "{{service}} {{kind}}")], "Where there is a CUDA device."),
    ],
)

DASHBOARDS: Final = (OVERVIEW, TRAINING, JUDGING, STORAGE_AND_JOBS)


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    return {
        "uid": f"lethe-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["lethe"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": placed(dashboard.panels),
    }


def placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """The panels in reading order: four figures or two pictures a row."""
    drawn: list[dict[str, Any]] = []
    x, y, row_height = 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        width, height = (6, 5) if panel.kind == "stat" else (12, 8)
        if x + width > WIDTH or (row_height and height != row_height):
            x, y = 0, y + row_height
        row_height = height
        drawn.append(drawn_panel(number, panel) | {"gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x += width
    return drawn


def drawn_panel(number: int, panel: Panel) -> dict[str, Any]:
    """One panel without its place."""
    defaults: dict[str, Any] = {"unit": panel.unit, "mappings": list(panel.mappings)}
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": {"fillOpacity": 8, "showPoints": "never", "spanNulls": True}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.curves)
        ],
    }


def main() -> None:
    """One JSON file a dashboard."""
    for dashboard in DASHBOARDS:
        text = json.dumps(as_json(dashboard), indent=2, ensure_ascii=False) + "\n"
        (FOLDER / f"{dashboard.name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
