"""The system of compose.yaml on a real engine, from the images that operators build: locked down, and whole again after every kill.

The tests share one system and go on from one another: what the whole job made is trespassed upon, and then backed up.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.docker.build import TARGETS, image_name
from tests.servers.docker import BASE_IMAGE, ROOT, DockerEngine, run
from tests.servers.processes import free_port

# By a signal, so that fixtures end what they began.
pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(1200, method="signal")]

SERVICES = ("trainer", "sampler", "detector", "mitigator")
NEIGHBOURS = ("store", "database", "prometheus")
HERE = Path(__file__).parent
# What each container's credentials must not be able to do to what the whole job made; the operator's are those of the command line.
FORBIDDEN_IN_STORE = {
    "trainer": ["read objects generations/", "write objects aliases/calibrations/", "delete objects models/", "delete objects datasets/"],
    "sampler": ["read objects datasets/", "write objects datasets/", "write objects models/", "delete objects models/"],
    "detector": ["read objects generations/", "write objects models/", "delete objects models/", "delete objects galleries/"],
    "mitigator": ["read objects datasets/", "read objects generations/", "write objects models/", "write objects aliases/calibrations/"],
    "operator": ["read objects datasets/", "read objects models/", "write objects models/", "read objects generations/"],
}
FORBIDDEN_TO_ALL = ["delete anchors audit-log/"]
FORBIDDEN_IN_DATABASE = [
    "DROP TABLE jobs",
    "CREATE TABLE theirs (id integer)",
    "UPDATE audit_events SET content = ''",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "DELETE FROM lethe_job_schema",
    "CREATE ROLE friend",
    "COPY (SELECT 1) TO PROGRAM 'true'",
]
# Where the Dockerfile writes the commit, and services read it.
REVISION = "/opt/lethe/application/shared/telemetry/revision.txt"
PATIENCE_SECONDS = 300
# A drawing that takes many times as long as the pause before its service is killed.
LONG = {"prompts": [f"chest film {number}" for number in range(8)], "images_per_prompt": 16, "steps": 200}


class System:
    """The services and their neighbours, as an operator reaches them: by Docker, and over HTTP on published ports."""

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self.engine = engine
        self.secrets = folder / "secrets"
        self.ports = {service: free_port() for service in (*SERVICES, "prometheus")}
        variables = {f"{service.upper()}_PORT": port for service, port in self.ports.items()}
        self.folders = {"SECRETS_FOLDER": str(self.secrets), "DATA_FOLDER": str(folder / "data")}
        variables |= self.folders
        # A subnet that another engine of this machine hardly has; checkpoints that are there soon.
        variables |= {"EDGE_SUBNET": f"172.30.{random.randrange(256)}.0/24", "LETHE_TORCH_THREADS": 1, "LETHE_CHECKPOINT_SECONDS": 2}
        settings = folder / "settings"
        settings.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        files = ["--file", str(ROOT / "compose.yaml"), "--file", str(HERE / "compose.test.yaml")]
        self.compose = [*engine.compose, "--project-name", "lethe", "--project-directory", str(ROOT), "--env-file", str(settings), *files]

    def up(self) -> None:
        """What `make compose-up` does."""
        script = [sys.executable, "deploy/compose/up.py", "--compose", shlex.join(self.compose)]
        run([*script, *SERVICES, "prometheus"], environment=os.environ | self.folders)

    def down(self) -> None:
        """Take everything away, volumes and networks too."""
        run([*self.compose, "down", "--volumes"])

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return run([*self.compose, "ps", "--quiet", service]).strip()

    def kill(self, service: str) -> None:
        """SIGKILL, by the engine."""
        self.engine.run("kill", self.container(service))

    def start(self, service: str) -> None:
        """Start what was killed."""
        self.engine.run("start", self.container(service))

    def client(self, service: str, key: str | None = "lethe_api_key") -> httpx.Client:
        """A client with the operator's key, or another."""
        headers = {"Authorization": f"Bearer {(self.secrets / key).read_text()}"} if key else {}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.ports[service]}", headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)

    def post(self, service: str, path: str, body: dict[str, Any], *, key: str | None = None) -> httpx.Response:
        """Send something once."""
        with self.client(service) as client:
            return client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})

    def read(self, service: str, path: str) -> dict[str, Any]:
        """Read something, however often it takes."""
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            with self.client(service) as client:
                answer = client.get(path)
            assert answer.status_code in {200, 503}, answer.text
            found.extend([answer.json()] if answer.status_code == 200 else [])
            return bool(found)

        self.wait_until(answered)
        return found[0]

    def wait_until_ready(self, *services: str) -> None:
        """Wait until services want work."""
        for service in services:
            self.read(service, "/readyz")

    def finished(self, path: str, *, service: str = "trainer") -> dict[str, Any]:
        """The operation at a path, once it succeeded."""

        def ended() -> bool:
            operation = self.read(service, path)
            assert operation["state"] not in {"failed", "cancelled"}, operation["error"]
            return bool(operation["state"] == "succeeded")

        self.wait_until(ended)
        return self.read(service, path)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something; silence on the way is no failure, since what answers is killed and started."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """An engine that holds the images."""
    engine = DockerEngine()
    try:
        engine.start()
        run([sys.executable, "deploy/docker/wheelhouse.py", "cpu"])
        docker = shlex.join(engine.docker)
        output = str(engine.folder / "dist")
        run([sys.executable, "deploy/docker/build.py", "cpu", "--docker", docker, "--base-image", BASE_IMAGE, "--output", output])
        servers = str(HERE / "servers")
        # rclone's own image is what docs/backup.md copies with.
        for target, tag in (("servers", "lethe-test/servers"), ("rclone", "rclone/rclone")):
            base = ["--build-arg", f"BASE_IMAGE={BASE_IMAGE}"]
            engine.run("build", "--network", "host", *base, "--target", target, "--tag", tag, servers)
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def system(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system, up and ready; its logs are shown when something fails."""
    system = System(engine, tmp_path_factory.mktemp("system"))
    try:
        system.up()
        system.wait_until_ready(*SERVICES)
        yield system
    finally:
        sys.stdout.write(run([*system.compose, "logs", "--no-color", "--tail", "40", *SERVICES]))
        system.down()


def test_images_are_small_share_their_layers_and_hold_no_tools(engine: DockerEngine, capsys: pytest.CaptureFixture[str]) -> None:
    images = {target: engine.inspect(image_name(target, "cpu")) for target in TARGETS}
    base = engine.inspect(BASE_IMAGE)["Size"]
    with capsys.disabled():
        for target, image in images.items():
            sys.stdout.write(f"\n{image_name(target, 'cpu')}: {image['Size'] / 1e6:.0f} MB, of which the base image {base / 1e6:.0f} MB")
    # 1,991 MB were measured, most of it torch; a compiler or CUDA's libraries would be seen.
    assert max(image["Size"] for image in images.values()) < 2_200_000_000
    # All but the last layer, Lethe's own code, which somebody may be editing between two builds.
    assert len({tuple(image["RootFS"]["Layers"][:-1]) for image in images.values()}) == 1
    assert {image["Config"]["User"] for image in images.values()} == {"10001:10001"}
    assert all(images[service]["Config"]["Healthcheck"]["Test"][0] == "CMD" for service in SERVICES)
    searches = "command -v gcc cc pip pip3 curl; find / -xdev -name '*.safetensors' -o -name '*.a'"
    finder = "import importlib.util as u; print(*(name for name in ('pip', 'ensurepip') if u.find_spec(name)))"
    script = f'({searches}) 2>/dev/null; python -c "{finder}"; ls /opt/lethe/application'
    told = engine.run("run", "--rm", "--network", "none", image_name("lethe", "cpu"), "sh", "-c", script).split()
    assert [line for line in told if not line.startswith("lethe-")] == ["bin", "sbom.cdx.json", "services", "shared"]
    written = engine.run("run", "--rm", "--network", "none", image_name("lethe", "cpu"), "cat", REVISION)
    assert written == images["lethe"]["Config"]["Labels"]["org.opencontainers.image.revision"]


def test_containers_are_locked_down(system: System) -> None:
    for service in SERVICES:
        container = system.container(service)
        found = system.engine.inspect(container)
        assert found["Config"]["User"] == "10001:10001"
        assert found["HostConfig"]["ReadonlyRootfs"] is True
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
        assert {port["HostIp"] for ports in found["NetworkSettings"]["Ports"].values() for port in ports or []} == {"127.0.0.1"}
        script = (
            "id -u; grep CapEff /proc/1/status; touch /opt/lethe/x /etc/x /x 2>/dev/null || echo read-only; touch /tmp/x /var/lib/lethe/x"
        )
        told = system.engine.run("exec", container, "sh", "-c", script)
        assert told.split() == ["10001", "CapEff:", "0" * 16, "read-only"]


def test_secrets_are_files_and_nothing_else(system: System) -> None:
    secrets = {path.name: path.read_text() for path in system.secrets.iterdir()}
    assert len(secrets) == 21
    containers = [system.container(service) for service in (*SERVICES, *NEIGHBOURS)]
    shown = system.engine.run("inspect", *containers) + "".join(system.engine.run("logs", container) for container in containers)
    assert [name for name, secret in secrets.items() if secret in shown and not name.endswith("_access_key")] == []


def test_each_container_is_given_its_own_secrets(system: System) -> None:
    secrets = {path.read_text().strip(): path.name for path in system.secrets.iterdir()}
    names = ("lethe_database_url", "lethe_s3_access_key", "lethe_s3_secret_key", "lethe_service_key")
    for service in SERVICES:
        lines = system.engine.run(
            "exec", system.container(service), "sh", "-c", "cd /run/secrets && for f in *; do echo $f $(cat $f); done"
        )
        given = {name: secrets[text] for name, _, text in (line.partition(" ") for line in lines.splitlines())}
        own = ("lethe_services_database_url", f"{service}_s3_access_key", f"{service}_s3_secret_key", "lethe_service_key")
        assert given == dict(zip(names if service == "mitigator" else names[:3], own, strict=False))


def test_callers_show_a_key_that_may_do_what_they_ask(system: System) -> None:
    for service in SERVICES:
        with system.client(service, key=None) as nobody, system.client(service, key="lethe_metrics_key") as scraper:
            assert nobody.get("/livez").status_code == 200
            assert nobody.get("/v1/info").status_code == 401
            assert nobody.get("/metrics").status_code == 401
            assert scraper.get("/metrics").status_code == 200
        with system.client("trainer", key="lethe_metrics_key") as scraper:
            assert scraper.get("/v1/models").status_code == 403


def test_operator_makes_and_ends_keys_and_anchors_the_log(system: System) -> None:
    newest = "$(lethe key list --json | grep -o 'key_[0-9a-f]*' | tail -1)"
    script = f"(lethe key create ward --scope read --days 1 && lethe key revoke {newest}) 2>&1"
    told = run([*system.compose, "run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "lethe", "-c", script])
    assert re.search(r"revoked +key_", told)
    assert "not anchored" not in told


def test_starting_again_changes_nothing(system: System) -> None:
    before = {path.name: path.read_bytes() for path in system.secrets.iterdir()}
    containers = [system.container(service) for service in SERVICES]
    system.up()
    assert {path.name: path.read_bytes() for path in system.secrets.iterdir()} == before
    assert [system.container(service) for service in SERVICES] == containers


def test_crashed_container_is_started_by_its_policy(system: System) -> None:
    container = system.container("sampler")
    os.kill(system.engine.inspect(container)["State"]["Pid"], signal.SIGKILL)
    system.wait_until(lambda: system.engine.inspect(container)["RestartCount"] == 1)
    system.wait_until_ready("sampler")


def test_whole_job_outlives_the_kill_of_each_container(system: System) -> None:
    body = {
        "name": "ward",
        "source": {"format": "phantom", "patients": 60},
        "image_size": 32,
        "prompt": {"template": "impression", "uncertain": "ignore"},
        "views": ["frontal"],
        "control_fraction": 0.3,
        "canaries": {"count": 3, "repeats": 10},
        "seed": 1,
    }
    # The trainer, as soon as it has acknowledged a data set: asked again with the same key, it answers the same.
    accepted = system.post("trainer", "/v1/datasets", body, key="ward-1")
    assert accepted.status_code == 202, accepted.text
    dataset = accepted.json()["id"]
    system.kill("trainer")
    system.start("trainer")
    system.wait_until_ready("trainer")
    assert system.post("trainer", "/v1/datasets", body, key="ward-1").json()["id"] == dataset
    system.finished(f"/v1/datasets/{dataset}")

    # Trainer, database and store in the middle of a training, each once there is something to lose.
    spec = {"name": "tiny", "dataset": dataset, "architecture": "tiny", "steps": 1500, "batch_size": 8, "learning_rate": 2e-3, "seed": 1}
    accepted = system.post("trainer", "/v1/training-jobs", spec)
    assert accepted.status_code == 202, accepted.text
    job = f"/v1/training-jobs/{accepted.json()['id']}"
    for service in ("trainer", "database", "store"):
        system.wait_until(lambda: bool(system.read("trainer", job)["progress"]["values"].get("checkpoint_step")))
        assert system.read("trainer", job)["state"] == "running"
        system.kill(service)
        system.start(service)
    model = system.finished(job)["result"]["model"]

    # The detector in the middle of a calibration, which makes the gallery too.
    accepted = system.post("detector", "/v1/calibrations", {"model": model, "dataset": dataset, "false_positive_rate": 0.1})
    assert accepted.status_code == 202, accepted.text
    calibration = f"/v1/calibrations/{accepted.json()['id']}"
    system.wait_until(lambda: system.read("detector", calibration)["state"] == "running")
    system.kill("detector")
    system.start("detector")
    system.finished(calibration, service="detector")

    # Screening, and the sampler in the middle of a drawing: drawn again, the images are the same.
    prompt = system.read("trainer", f"/v1/datasets/{dataset}/records?split=canary")["items"][0]["prompt"]
    screened = system.post("detector", "/v1/screenings", {"model": model, "prompts": [prompt]})
    assert screened.status_code == 200, screened.text
    assert screened.json()["results"][0]["decision"] in {"allow", "mitigate"}
    request = {"model": model, "prompts": [prompt], "images_per_prompt": 2, "steps": 10, "guidance_scale": 2.0, "seed": 3}
    drawn = system.post("sampler", "/v1/generations", request | {"output": "stored"})
    assert drawn.status_code == 200, drawn.text
    kill_in_the_middle(system, "sampler", request | LONG)
    again = system.post("sampler", "/v1/generations", request)
    assert digests(again) == digests(drawn)

    # The mitigator in the middle of a mitigation; and without its judge it releases nothing.
    kill_in_the_middle(system, "mitigator", request | LONG)
    mitigated = system.post("mitigator", "/v1/generations", request)
    assert mitigated.status_code in {200, 409}, mitigated.text
    assert mitigated.status_code == 200 or mitigated.json()["type"].endswith(":mitigation-insufficient")
    system.kill("detector")
    unjudged = system.post("mitigator", "/v1/generations", request)
    assert (unjudged.status_code, unjudged.json()["type"]) == (503, "urn:lethe:problem:screener-unavailable")
    system.start("detector")

    system.kill("prometheus")
    system.start("prometheus")
    system.wait_until(lambda: scraped(system) == set(SERVICES))

    # Everything that was acknowledged is there.
    system.wait_until_ready(*SERVICES)
    assert system.read("trainer", f"/v1/datasets/{dataset}")["state"] == "succeeded"
    assert system.read("trainer", job)["result"]["model"] == model
    assert system.read("trainer", f"/v1/models/{model}")["id"] == model
    assert system.read("detector", calibration)["state"] == "succeeded"
    assert system.read("sampler", f"/v1/generations/{drawn.json()['id']}")["id"] == drawn.json()["id"]
    mended = system.post("mitigator", "/v1/generations", request)
    assert (mended.status_code, digests(mended)) == (mitigated.status_code, digests(mitigated))


@pytest.mark.parametrize("who", [*SERVICES, "operator"])
def test_credentials_of_a_container_do_no_more_than_its_work(system: System, who: str) -> None:
    in_store = [*FORBIDDEN_IN_STORE[who], *FORBIDDEN_TO_ALL]
    script = ["python", "-c", (HERE / "trespass.py").read_text(), *in_store, *FORBIDDEN_IN_DATABASE]
    if who == "operator":
        told = run([*system.compose, "run", "--rm", "-T", "--no-deps", "--entrypoint", script[0], "lethe", *script[1:]])
    else:
        told = system.engine.run("exec", system.container(who), *script)
    expected = dict.fromkeys(in_store, "AccessDenied") | dict.fromkeys(FORBIDDEN_IN_DATABASE, "42501")
    assert json.loads(told.splitlines()[-1]) == expected


def test_system_is_restored_elsewhere_by_the_lines_of_the_page(system: System, tmp_path: Path) -> None:
    model = system.read("trainer", "/v1/models")["items"][0]["id"]
    request = {"model": model, "prompts": ["chest film"], "images_per_prompt": 1, "steps": 10, "guidance_scale": 2.0, "seed": 5}
    drawn = digests(system.post("sampler", "/v1/generations", request))
    lists = {path: system.read("trainer", path) for path in ("/v1/datasets", "/v1/models", "/v1/training-jobs")}
    backing_up, restoring = commands_of_the_page()
    # Another host has other containers, networks and volumes, and the secrets of this one.
    in_the_checkout(system, tmp_path / "lethe", f"{backing_up}\ndocker compose down --volumes\n{restoring}")
    system.wait_until_ready(*SERVICES)
    assert {path: system.read("trainer", path) for path in lists} == lists
    assert digests(system.post("sampler", "/v1/generations", request)) == drawn != []
    verified = run([*system.compose, "run", "--rm", "-T", "--no-deps", "lethe", "audit-log", "verify", "--json"])
    found = json.loads(verified[verified.index("{") :])
    assert (found["findings"], found["events"] > 0, found["anchors"] > 0) == ([], True, True)


def commands_of_the_page() -> list[str]:
    """What docs/backup.md says for compose: how to back up, and how to restore."""
    page = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
    section = page.partition("### With compose\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    return blocks


def in_the_checkout(system: System, folder: Path, script: str) -> None:
    """Run lines of a page in a folder that has the checkout's name and secrets, where `docker` and `make` mean this system's."""
    compose, docker = shlex.join(system.compose), shlex.join(system.engine.docker)
    up = shlex.join([sys.executable, "deploy/compose/up.py", "--compose", compose, *SERVICES, "prometheus"])
    (folder / "deploy").mkdir(parents=True)
    (folder / "deploy" / "secrets").symlink_to(system.secrets)
    lines = [
        f'docker() {{ if [ "$1" = compose ]; then shift; {compose} "$@"; else {docker} "$@"; fi; }}',
        f'make() {{ [ "$*" = compose-up ] && (cd {shlex.quote(str(ROOT))} && {up}); }}',
        f"cd {shlex.quote(str(folder))}",
        script,
    ]
    run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], environment=os.environ | system.folders)


def kill_in_the_middle(system: System, service: str, request: dict[str, Any]) -> None:
    """Kill a service while it draws: its caller gets no answer, and the next one does."""
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(system.post, service, "/v1/generations", request)
        time.sleep(1)
        assert not asked.done()
        system.kill(service)
        assert isinstance(asked.exception(), httpx.TransportError)
    system.start(service)
    system.wait_until_ready(service)


def digests(answer: httpx.Response) -> list[str]:
    """The digests of the images in an answer."""
    return [image["sha256"] for image in answer.json().get("images", [])]


def scraped(system: System) -> set[str]:
    """The services that Prometheus reached last."""
    with httpx.Client(base_url=f"http://127.0.0.1:{system.ports['prometheus']}", trust_env=False) as client:
        answer = client.get("/api/v1/targets")
    if answer.status_code == 503:  # it reads its log first
        return set()
    targets = answer.json()["data"]["activeTargets"]
    return {target["labels"]["service"] for target in targets if target["health"] == "up" and target["labels"]["job"] == "lethe"}
