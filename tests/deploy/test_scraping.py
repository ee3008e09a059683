"""A real Prometheus, configured as deployed, scrapes the four services through a minute of load.

All that is documented appears and nothing else, no label tells what it must not, and every alert and panel has an answer.
"""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml
from PIL import Image

from shared.access.key_records import KeyRecords
from shared.cli.supervisor import SERVICES, Supervisor, free_ports
from shared.database import Database
from shared.http.migrations import migrate
from shared.http.problems import PROBLEM_KINDS
from tests.deploy.test_grafana import PANELS
from tests.deploy.test_metrics import PAGE
from tests.deploy.test_prometheus import ALERTS, FOLDER
from tests.metrics_in_code import OF_PROCESSES, TARGET_LABELS, metrics_in_code
from tests.servers.prometheus import PrometheusServer, promtool

if TYPE_CHECKING:
    from tests.fixtures.judging import JudgingHome

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]

LOAD_SECONDS = 60
PATIENCE_SECONDS = 240
MARKER = "zanzibar-opacity"
PROMPT = f"frontal radiograph, {MARKER}"
SCOPES = ("read", "train", "generate", "mitigate", "score", "export")
# What Prometheus says of every target by itself.
OF_TARGETS = {"up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling", "scrape_samples_scraped", "scrape_series_added"}
# What a processor has no part in; tests/shared/diffusion/test_device_memory.py provokes it.
NEED_A_DEVICE = {"lethe_gpu_memory_bytes"}
# Panels that show something only where something is wrong, or that need a device.
EMPTY_WHERE_ALL_IS_WELL = {"What the store lacks", "Memory of the device"}
# Labels whose values are not on the page one by one: numbers, and what is on other pages.
OPEN_ENDED = {"__name__", "code", "le", "problem", "revision", "route", "slot", "version"}
ID = re.compile(r"(?<![a-z])(ds|mdl|gal|cal|gen|job|key)_[0-9a-z]{6,}|[0-9a-f]{16,}")


@dataclass
class House:
    """The four services, the Prometheus that scrapes them, and a caller."""

    supervisor: Supervisor
    prometheus: PrometheusServer
    headers: dict[str, str]
    metrics_headers: dict[str, str]
    home: JudgingHome
    answers: list[int] = field(default_factory=list)

    def url(self, service: str) -> str:
        """Where a service answers."""
        return next(each.url for each in self.supervisor.services if each.name == service)

    def send(self, service: str, path: str, body: Any = None, *, method: str | None = None, **options: Any) -> httpx.Response:
        """Ask a service for something."""
        options = {"headers": self.headers, "timeout": PATIENCE_SECONDS, **options}
        answer = httpx.request(method or ("GET" if body is None else "POST"), self.url(service) + path, json=body, **options)
        self.answers.append(answer.status_code)
        return answer

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, with patience."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            self.supervisor.check()
            assert time.monotonic() < deadline, f"{what} did not happen in time"
            time.sleep(0.5)

    def begin(self, service: str, noun: str, body: dict[str, Any]) -> str:
        """Start long work; answers its path."""
        answer = self.send(service, f"/v1/{noun}", body)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    def finish(self, service: str, path: str) -> dict[str, Any]:
        """Wait until long work has ended."""
        self.wait(lambda: self.send(service, path).json()["state"] not in {"queued", "running"}, f"the end of {path}")
        ended: dict[str, Any] = self.send(service, path).json()
        assert ended["state"] == "succeeded", ended
        return ended


@pytest.fixture(scope="module")
def house(shared_judging_home: JudgingHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The services with authentication on, after a minute of load."""
    home = shared_judging_home.copy(tmp_path_factory.mktemp("scraped") / "home")
    with closing(Database.open(home.settings)) as database:
        migrate(database)
        keys = KeyRecords.of(home.settings, database)
        caller = keys.create(name="caller", scopes=SCOPES, lifetime=None).text
        scraper = keys.create(name="prometheus", scopes=["metrics:read"], lifetime=None).text
        sibling = keys.create(name="siblings", scopes=SCOPES, kind="service", lifetime=None).text
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "key").write_text(scraper, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        settings = {"AUTH": "on", "SERVICE_KEY": sibling, "JOB_SLOTS": "2", "CHECKPOINT_SECONDS": "1", "BODY_LIMIT_BYTES": "65536"}
        for name, value in settings.items():
            patch.setenv(f"LETHE_{name}", value)
        with Supervisor(home=home.settings.home, ports=free_ports(4), threads=1) as supervisor:
            supervisor.start()
            prometheus = PrometheusServer(folder, as_deployed(supervisor, folder / "key"))
            with closing(prometheus):
                prometheus.start()
                house = House(supervisor, prometheus, bearer(caller), bearer(scraper), home)
                load(house)
                yield house


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def as_deployed(supervisor: Supervisor, key: Path) -> dict[str, Any]:
    """deploy/prometheus/prometheus.yml with the places of this test."""
    configuration: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    lethe = next(job for job in configuration["scrape_configs"] if job["job_name"] == "lethe")
    lethe["authorization"]["credentials_file"] = str(key)
    places = {service.name: service.url.removeprefix("http://") for service in supervisor.services}
    for target in lethe["static_configs"]:
        target["targets"] = [places[target["labels"]["service"]]]
    return {**configuration, "rule_files": [str(FOLDER / "rules.yml")], "scrape_configs": [lethe]}


def load(house: House) -> None:
    """A minute in which everything happens that a metric tells of."""
    until = time.monotonic() + LOAD_SECONDS
    calibrated = house.begin("detector", "calibrations", calibration(house))
    with ThreadPoolExecutor(max_workers=3) as callers:
        jobs = [callers.submit(train_and_lose_the_process, house), callers.submit(search, house)]
        house.finish("detector", calibrated)
        damage(house)
        while time.monotonic() < until:
            ask(house)
        for job in jobs:
            job.result()


def calibration(house: House) -> dict[str, Any]:
    return {"model": house.home.stocked.model.id, "dataset": house.home.stocked.dataset.id, "false_positive_rate": 0.2}


def train_and_lose_the_process(house: House) -> None:
    """A training whose process is killed once it has a checkpoint."""
    stocked = house.home.stocked
    body = {"name": MARKER, "dataset": stocked.dataset.id, "base": stocked.model.id, "steps": 600, "batch_size": 4, "checkpoint_every": 20}
    path = house.begin("trainer", "training-jobs", body)
    house.wait(lambda: "checkpoint_step" in (house.send("trainer", path).json()["progress"].get("values") or {}), "a checkpoint")
    trainer = next(service for service in house.supervisor.services if service.name == "trainer")
    house.wait(lambda: kill_worker(trainer.process.pid, path.rpartition("/")[2]), "the death of its process")
    house.finish("trainer", path)


def kill_worker(service: int, job: str) -> bool:
    """Kill the process of a job, where it is found; others of the service come and go meanwhile."""
    for child in psutil.Process(service).children(recursive=True):
        with suppress(psutil.Error):
            if job in child.cmdline():
                child.send_signal(signal.SIGKILL)
                return True
    return False


def search(house: House) -> None:
    """A search of two short trials."""
    stocked = house.home.stocked
    training = {"name": "a", "dataset": stocked.dataset.id, "base": stocked.model.id, "steps": 4, "batch_size": 4}
    evaluation = {"images_per_canary": 1, "control_prompts": 2, "sampling_steps": 1, "noises": 1}
    body = {"training": training, "space": "attention", "objectives": ["memorization", "kid"], "trials": 2, "evaluation": evaluation}
    house.finish("trainer", house.begin("trainer", "searches", body))


def damage(house: House) -> None:
    """A stored image whose bytes change, and is asked for."""
    stored = house.send("sampler", "/v1/generations", drawing(house, output="stored")).json()
    (picture,) = house.home.settings.home.rglob(f"{stored['id']}/*.png")
    picture.chmod(0o644)
    picture.write_bytes(picture.read_bytes()[:-1] + b"\0")
    assert house.send("sampler", stored["images"][0]["uri"]).status_code == 500


def drawing(house: House, **other: Any) -> dict[str, Any]:
    return {"model": house.home.stocked.model.id, "prompts": [PROMPT], "steps": 2, **other}


def ask(house: House) -> None:
    """One round of what callers send: good, bad, and not theirs to send."""
    stocked = house.home.stocked
    house.send("sampler", "/v1/generations", drawing(house))
    house.send("detector", "/v1/screenings", {"model": stocked.model.id, "prompts": [PROMPT, "frontal radiograph"]})
    house.send("detector", "/v1/matches", {"dataset": stocked.dataset.id, "images": [a_picture()]})
    for strategy in ("auto", "guidance_timing"):
        house.send("mitigator", "/v1/generations", drawing(house, mitigation={"strategy": strategy}))
    for service in SERVICES:
        house.send(service, f"/v1/{MARKER}")
        house.send(service, f"/v1/info?{MARKER}", headers={})
        house.send(service, "/v1/info", headers=bearer(MARKER))
        house.send(service, "/metrics")
    house.send("sampler", f"/v1/generations/{MARKER}")
    house.send("sampler", "/v1/generations", {"prompts": [PROMPT * 2000]})
    house.send("sampler", "/v1/generations", {MARKER: PROMPT})
    house.send("sampler", "/v1/generations", method=MARKER.upper())
    house.send("sampler", "/v1/generations", method="POST", content=MARKER, headers={**house.headers, "Content-Type": "application/json"})


def a_picture() -> str:
    """A grey square."""
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 90).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def seen(house: House) -> dict[str, set[str]]:
    """The names of all series, with the services that told them."""
    found: dict[str, set[str]] = {}
    for series in house.prometheus.series():
        found.setdefault(series["__name__"], set()).add(series["service"])
    return found


def tellers() -> dict[str, set[str]]:
    """Who tells each metric, as documented."""
    rows = re.findall(r"^\| `(lethe_\w+)` \|[^|]*\|[^|]*\| ([^|]*) \|", PAGE, flags=re.MULTILINE)
    return {name: set(SERVICES if who == "all" else who.split(", ")) for name, who in rows}


def test_load_met_every_kind_of_answer(house: House) -> None:
    assert {200, 202, 400, 401, 403, 404, 405, 413, 422, 500} - set(house.answers) == set()
    assert {502, 504} & set(house.answers) == set()


def test_every_documented_metric_appears_where_it_is_said_to(house: House) -> None:
    wanted = {metric: who for metric, who in tellers().items() if metric not in NEED_A_DEVICE}
    metrics = metrics_in_code()

    def missing() -> dict[str, set[str]]:
        found = seen(house)
        told = {name: set.intersection(*(found.get(series, set()) for series in metrics[name].series)) for name in wanted}
        return {name: who - told[name] for name, who in wanted.items() if who - told[name]}

    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing() and time.monotonic() < deadline:
        time.sleep(1)
    assert missing() == {}


def test_nothing_appears_that_is_not_documented(house: House) -> None:
    documented = {series for metric in metrics_in_code().values() for series in metric.series}
    assert set(seen(house)) - documented - set(OF_PROCESSES) - OF_TARGETS == set()


def test_series_have_the_documented_labels_and_no_other(house: House) -> None:
    wanted = {series: {*metric.labels, "__name__"} for metric in metrics_in_code().values() for series in metric.series}
    odd = {
        series["__name__"]
        for series in house.prometheus.series()
        if series["__name__"] in wanted and set(series) - TARGET_LABELS - {"le"} != wanted[series["__name__"]]
    }
    assert odd == set()


def test_no_label_tells_a_prompt_an_id_or_anything_unbounded(house: House) -> None:
    values: dict[tuple[str, str], set[str]] = {}
    for series in house.prometheus.series():
        for label, value in series.items():
            if label not in {"__name__", "revision"}:  # a commit looks like an id, and is one for each build
                values.setdefault((series["__name__"], label), set()).add(value)
    every = {value for each in values.values() for value in each}
    assert [value for value in every if MARKER in value.lower() or ID.search(value)] == []
    assert [value for value in every if len(value) > 64] == []
    assert {place: len(found) for place, found in values.items() if len(found) > 40} == {}


def test_labels_take_documented_values_alone(house: House) -> None:
    documented: dict[str, set[str]] = {}
    for labels, values in re.findall(r"^\| (.*?) \| (.*) \|$", PAGE.partition("## Labels")[2], flags=re.MULTILINE):
        for label in re.findall(r"`(\w+)`", labels):
            documented.setdefault(label, set()).update(re.findall(r"`([\w-]+)`", values))
    undocumented = {
        (label, value)
        for series in house.prometheus.series()
        if series["__name__"].startswith("lethe_")
        for label, value in series.items()
        if label not in OPEN_ENDED | TARGET_LABELS and value not in documented[label]
    }
    assert undocumented == set()
    assert set(house.prometheus.get("label/problem/values")) == set(PROBLEM_KINDS)


def test_routes_are_templates_of_the_contract(house: House) -> None:
    folder = FOLDER.parents[1] / "docs" / "openapi"
    known = {path for service in SERVICES for path in json.loads((folder / f"{service}.json").read_text(encoding="utf-8"))["paths"]}
    routes = set(house.prometheus.get("label/route/values"))
    assert routes - known - {"unmatched", "/docs", "/openapi.json"} == set()
    assert {"unmatched", "/v1/generations", "/v1/generations/{id}"} <= routes


@pytest.mark.parametrize(
    "series",
    [
        'lethe_jobs_reclaimed_total{kind="training"}',
        'lethe_storage_verification_failures_total{service="sampler"}',
        'lethe_requests_rejected_total{reason="body"}',
        'lethe_auth_failures_total{reason="missing"}',
        'lethe_auth_failures_total{reason="scope"}',
        'lethe_audit_events_total{action="generate"}',
        "lethe_search_trials",
    ],
)
def test_what_was_provoked_is_counted(house: House, series: str) -> None:
    house.wait(
        lambda: [float(each["value"][1]) >= 1 for each in house.prometheus.query(f"sum(max_over_time({series}[10m]))")] == [True], series
    )


@pytest.mark.parametrize("gauge", ["up", "lethe_ready"])
def test_every_service_is_up_and_ready(house: House, gauge: str) -> None:
    def told() -> dict[str, str]:
        return {each["metric"]["service"]: each["value"][1] for each in house.prometheus.query(gauge)}

    house.wait(lambda: told() == dict.fromkeys(SERVICES, "1"), gauge)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_is_evaluated_without_fault(house: House, alert: dict[str, Any]) -> None:
    def rule() -> dict[str, Any]:
        groups = house.prometheus.get("rules")["groups"]
        return next(rule for group in groups for rule in group["rules"] if rule["name"] == alert["alert"])

    house.wait(lambda: rule()["health"] != "unknown", "an evaluation")
    assert (rule()["health"], rule().get("lastError", "")) == ("ok", "")


@pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=lambda panel: panel["title"])
def test_panel_shows_something(house: House, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        # A range as long as the load, whose last minute may be quiet.
        expression = target["expr"].replace("$__rate_interval", "10m")
        found = house.prometheus.get("query_range", query=expression, start=time.time() - 600, end=time.time(), step=5)["result"]
        assert found or panel["title"] in EMPTY_WHERE_ALL_IS_WELL, expression


@pytest.mark.parametrize("service", SERVICES)
def test_exposition_of_a_service_satisfies_promtool(house: House, service: str) -> None:
    told = httpx.get(house.url(service) + "/metrics", headers=house.metrics_headers, timeout=30)
    assert told.status_code == 200
    # The interpreter's own counters name things that the linter would have otherwise.
    lethes = re.sub(r"^(?:# (?:HELP|TYPE) )?(?:python|process)_.*\n", "", told.text, flags=re.MULTILINE)
    done = promtool("check", "metrics", given=lethes)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_for_credentials_of_their_scope_alone(house: House, service: str) -> None:
    asked = [httpx.get(house.url(service) + "/metrics", headers=headers, timeout=30).status_code for headers in ({}, house.headers)]
    assert asked == [401, 403]
    assert httpx.get(house.url(service) + "/v1/info", headers=house.metrics_headers, timeout=30).status_code == 200
