"""compose.yaml names what exists: settings, secrets, images of this version; it publishes on loopback and locks the services down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.compose.up import KEYS, STORE_USERS, make_secrets
from deploy.docker.build import TARGETS, image_name, version
from shared.cli.supervisor import SERVICES
from shared.settings import Settings
from shared.storage.buckets import PRINCIPALS

ROOT = Path(__file__).parents[2]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("compose.yaml", "compose.gpu.yaml")}
COMPOSE: dict[str, Any] = yaml.safe_load(TEXTS["compose.yaml"])
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, part in PARTS.items() if "lethe" in part["image"]]
# Settings that an operator of compose has no reason to change: the images' own, a plain network's, secrets, a cluster's.
FIXED = {
    *("LETHE_HOME", "LETHE_AUTH", "LETHE_LISTEN_HOST"),
    *("LETHE_S3_REGION", "LETHE_S3_PRINCIPALS", "LETHE_TLS_CERTIFICATE", "LETHE_TLS_KEY"),
    *(
        "LETHE_DATABASE_URL",
        "LETHE_SERVICES_DATABASE_URL",
        "LETHE_S3_ACCESS_KEY",
        "LETHE_S3_SECRET_KEY",
        "LETHE_SERVICE_KEY",
        "LETHE_API_KEY",
    ),
    *("LETHE_RAY_ADDRESS", "LETHE_RAY_TOKEN_FILE", "LETHE_RAY_CPUS_PER_JOB", "LETHE_RAY_GPUS_PER_JOB"),
}


def filled(text: str) -> str:
    """A text with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_services_are_told_settings_that_exist_and_all_that_may_differ() -> None:
    settings = {f"LETHE_{name.upper()}" for name in Settings.model_fields}
    told = {name for name in PARTS["trainer"]["environment"] if name.startswith("LETHE_")}
    assert told - settings == set()
    assert settings - told - FIXED == set()


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_locked_down(service: str) -> None:
    part = PARTS[service]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["tmpfs"] == ["/tmp"]
    assert part["depends_on"] == {"bootstrap": {"condition": "service_completed_successfully"}}


def test_ports_are_published_on_loopback_only() -> None:
    ports = [filled(port) for part in PARTS.values() for port in part.get("ports", [])]
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    assert {port.rpartition(":")[2] for port in ports} == {"8001", "8002", "8003", "8004", "9090", "3000"}


def test_store_and_database_are_reached_from_inside_only() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert {name: PARTS[name]["networks"] for name in ("store", "database")} == {"store": ["inside"], "database": ["inside"]}
    assert not {"ports"} & {*PARTS["store"], *PARTS["database"]}


def test_images_are_those_that_are_built_and_others_are_pinned() -> None:
    assert {filled(PARTS[name]["image"]) for name in OURS} == {image_name(target, "cpu") for target in TARGETS}
    gpu = yaml.safe_load(TEXTS["compose.gpu.yaml"])["services"]
    assert {filled(part["image"]) for part in gpu.values()} == {image_name(target, "cuda") for target in TARGETS}
    assert {name for name, part in gpu.items() if "deploy" in part} == set(SERVICES)
    others = [filled(part["image"]) for name, part in PARTS.items() if name not in OURS]
    assert [image for image in others if not re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*", image)] == []
    assert not [image for image in others if image.startswith("minio/")]


def test_secrets_are_made_by_the_script_and_each_goes_where_it_is_needed(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = {path.name for path in tmp_path.iterdir()} | set(KEYS)
    assert {name: filled(secret["file"]) for name, secret in COMPOSE["secrets"].items()} == {
        name: f"./deploy/secrets/{name}" for name in made - {"lethe_api_key"}
    }
    given = {name: mounted(part) for name, part in PARTS.items() if part.get("secrets")}
    services = {"lethe_database_url": "lethe_services_database_url"}
    assert given.pop("bootstrap") == {
        name: name
        for name in (
            *("lethe_database_url", "lethe_services_database_url", "lethe_s3_access_key", "lethe_s3_secret_key"),
            *(f"{user}_s3_{half}_key" for user in STORE_USERS for half in ("access", "secret")),
        )
    }
    assert given.pop("lethe") == services | pair_of("operator")
    assert given.pop("mitigator") == services | pair_of("mitigator") | {"lethe_service_key": "lethe_service_key"}
    for service in ("trainer", "sampler", "detector"):
        assert given.pop(service) == services | pair_of(service)
    assert given == {
        "store": {"lethe_s3_access_key": "lethe_s3_access_key", "lethe_s3_secret_key": "lethe_s3_secret_key"},
        "database": {"database_password": "database_password"},
        "prometheus": {"lethe_metrics_key": "lethe_metrics_key"},
        "grafana": {"grafana_password": "grafana_password"},
    }


def mounted(part: dict[str, Any]) -> dict[str, str]:
    """The secrets of a container: under which name it sees which."""
    long = [secret if isinstance(secret, dict) else {"source": secret, "target": secret} for secret in part["secrets"]]
    return {secret["target"]: secret["source"] for secret in long}


def pair_of(user: str) -> dict[str, str]:
    """A user's keys under the names of settings."""
    return {f"lethe_s3_{half}_key": f"{user}_s3_{half}_key" for half in ("access", "secret")}


def test_users_of_the_store_are_made_from_the_secrets_of_the_bootstrap() -> None:
    assert STORE_USERS == PRINCIPALS
    assert PARTS["bootstrap"]["command"] == ["lethe", "bootstrap", "--minio-users", PARTS["bootstrap"]["environment"]["LETHE_SECRETS"]]


def test_keys_of_the_installation_are_held_by_who_uses_them() -> None:
    assert {name for name, part in PARTS.items() if "keys:/var/lib/lethe-keys" in part.get("volumes", [])} == {*SERVICES, "lethe"}


def test_every_variable_is_in_the_template_with_its_default() -> None:
    template = (ROOT / ".env.template").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", template, flags=re.MULTILINE))
    used = {match[1]: match[2] for text in TEXTS.values() for match in re.finditer(r"\$\{(\w+):-([^}]*)\}", text)}
    ours = {name: value for name, value in used.items() if not name.startswith("LETHE_")}
    assert {name: shown.get(name) for name in ours} == ours
    assert shown["IMAGE_TAG"] == version()
    assert {name for name in used if name.startswith("LETHE_")} <= set(shown)
