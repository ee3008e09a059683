"""schemathesis against the real services: everything that their schemas allow, and much that they do not, without one failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from shared.access.caller import EVERY_SCOPE
from shared.access.key_records import KeyRecords
from shared.database import Database
from shared.http.migrations import migrate_embedded
from tests.fixtures.processes import ROOT, ServiceProcess

if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.fixtures.judging import JudgingHome

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]
SERVICES = ("trainer", "sampler", "detector", "mitigator")
# Images that are answered inline are not kept, and their generation is not found afterwards.
NOT_KEPT = {"sampler": ",ensure_resource_availability"}
SEED = 20261122
EXAMPLES = 3  # of each operation in each phase; the phase `coverage` besides has its own, every bound among them


@dataclass(frozen=True)
class Services:
    """The four services, and a key that opens all their routes."""

    processes: dict[str, ServiceProcess]
    key: str


def key_in(settings: Settings, *, kind: Literal["key", "service"]) -> str:
    """A new key of a home, which may do everything."""
    with closing(Database.open(settings)) as database:
        migrate_embedded(database)
        return KeyRecords.of(settings, database).create(name="fuzzing", scopes=sorted(EVERY_SCOPE), kind=kind, lifetime=None).text


@pytest.fixture(scope="module")
def services(shared_judging_home: JudgingHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The four services on one home; jobs that are asked for end soon, since there is nothing that they could work on."""
    home = shared_judging_home.copy(tmp_path_factory.mktemp("fuzzing") / "home")
    told = {"LETHE_HOME": str(home.settings.home), "LETHE_AUTH": "on", "LETHE_SERVICE_KEY": key_in(home.settings, kind="service")}
    with ExitStack() as stack:
        found = {service: ServiceProcess(service, told) for service in SERVICES}
        urls = {f"LETHE_{service.upper()}_URL": process.url for service, process in found.items()}
        for process in found.values():
            process.environment |= urls
            stack.callback(process.end)
            process.start()
        yield Services(found, key_in(home.settings, kind="key"))


@pytest.fixture(scope="module")
def known(shared_judging_home: JudgingHome) -> str:
    """What exists, for the hooks."""
    model, dataset = shared_judging_home.stocked.model.id, shared_judging_home.stocked.dataset.id
    gallery, calibration = shared_judging_home.gallery.id, shared_judging_home.calibration.id
    by_noun = {"models": model, "datasets": dataset, "galleries": gallery, "calibrations": calibration}
    return json.dumps(by_noun | {"model": model, "dataset": dataset})


@pytest.mark.parametrize("service", SERVICES)
def test_service_keeps_to_its_schema(services: Services, known: str, service: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{services.processes[service].url}/openapi.json"),
        *("--header", f"Authorization: Bearer {services.key}"),
        *("--seed", str(SEED), "--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing,stateful"),
        *("--checks", "all", "--exclude-checks", f"positive_data_acceptance{NOT_KEPT.get(service, '')}", "--suppress-health-check", "all"),
        *("--warnings", "off", "--request-timeout", "120", "--no-color"),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.fuzzing.hooks",
        "FUZZING_KNOWN": known,
        "PYTHONPATH": str(ROOT),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert services.processes[service].get("/livez") == {"status": "alive"}
