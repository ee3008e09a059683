"""The Kubernetes manifests: what kustomize renders is valid, and holds to the rules by which pods are locked down."""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from deploy.docker import build
from deploy.kubernetes import write_rules
from shared.cli.app import app as command_line
from shared.cli.deployment_commands import read_principals
from shared.cli.supervisor import SERVICES
from shared.database import Database, services_role
from shared.jobs.runner import STOP_GRACE
from shared.settings import Settings
from shared.storage.buckets import POLICIES, PRINCIPALS
from shared.storage.minio_users import read_users
from tests.deploy.manifests import (
    KUBERNETES,
    NEWEST,
    OLDEST,
    OVERLAYS,
    containers,
    named,
    of_kind,
    pod_templates,
    rendered,
    selects,
    validate,
    validate_template,
)
from tests.servers.absence import find_program

ROOT = Path(__file__).parents[2]
RENDERED = ("base", *OVERLAYS)
PORTS = {"trainer": 8001, "sampler": 8002, "detector": 8003, "mitigator": 8004}
# Secrets that nobody makes by hand: by `lethe key create` and an operator's hand, by cert-manager, by KubeRay, by the site.
MADE_LATER = {"lethe-service-key", "lethe-metrics-key", "lethe-ray", "registry-login", "lethe-authority"}
# The files of secrets that hold others than a store user's.
STORE_FILES = ("lethe_s3_access_key", "lethe_s3_secret_key")
FILES = {**dict.fromkeys(("lethe-database", "lethe-database-owner"), ("lethe_database_url",)), "lethe-service-key": ("lethe_service_key",)}
every_rendering = pytest.mark.parametrize("overlay", RENDERED)
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.mark.parametrize(
    ("overlay", "version"), [*((overlay, NEWEST) for overlay in RENDERED), *((overlay, OLDEST) for overlay in ("cpu-demo", "ray"))]
)
def test_rendered_resources_are_valid(overlay: str, version: str) -> None:
    for resource in rendered(overlay):
        validate(resource, version)
    for _, template in pod_templates(overlay):
        validate_template(template, version)


@every_rendering
def test_resources_are_told_apart_and_stay_in_the_namespace(overlay: str) -> None:
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in rendered(overlay)]
    assert sorted(set(names)) == sorted(names)
    outside = {resource["kind"] for resource in rendered(overlay) if resource["metadata"].get("namespace") != "lethe"}
    assert outside == {"Namespace"}
    labels = named(overlay, "Namespace", "lethe")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(("field", "value"), [("containers", "none"), ("unheard", 1)], ids=["wrong type", "unknown field"])
def test_validation_finds_what_is_wrong(field: str, value: Any) -> None:
    deployment = named("base", "Deployment", "sampler")
    pod = deployment["spec"]["template"]["spec"] | {field: value}
    broken = deployment | {"spec": deployment["spec"] | {"template": {"metadata": {}, "spec": pod}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken, OLDEST)


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PrometheusRule", "ScaledObject", "Certificate", "Issuer", "RayCluster"])
def test_custom_resources_have_schemas_that_refuse_unknown_fields(kind: str) -> None:
    resource = of_kind("ray", kind)[0]
    with pytest.raises(jsonschema.ValidationError, match="unheard"):
        validate(resource | {"spec": resource["spec"] | {"unheard": 1}}, OLDEST)


# ── Pods ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_rendering
def test_pods_are_restricted(overlay: str) -> None:
    templates = list(pod_templates(overlay))
    assert len(templates) >= 6
    for name, template in templates:
        pod = template["spec"]
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["runAsGroup"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "projected", "configMap", "persistentVolumeClaim"}, name


@every_rendering
def test_containers_may_do_nothing_and_write_nowhere(overlay: str) -> None:
    for name, container, _ in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


@every_rendering
def test_containers_have_requests_and_limits(overlay: str) -> None:
    for name, container, _ in containers(overlay):
        for bound in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][bound]), f"{name} {bound}"
        gpus = [container["resources"][bound].get("nvidia.com/gpu") for bound in ("requests", "limits")]
        assert gpus[0] == gpus[1], name


@every_rendering
def test_scratch_folders_are_bounded_within_the_limits(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        pod = template["spec"]
        folders = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        assert folders, name
        assert all("sizeLimit" in folder for folder in folders), name
        limits = [container["resources"]["limits"] for container in [*pod.get("initContainers", []), *pod["containers"]]]
        for resource, medium in (("ephemeral-storage", None), ("memory", "Memory")):
            taken = sum(size_bytes(folder["sizeLimit"]) for folder in folders if folder.get("medium") == medium)
            assert taken < sum(size_bytes(limit[resource]) for limit in limits), f"{name} would be evicted before its folders are full"


@every_rendering
def test_models_are_evicted_before_their_pod_is_killed(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    for service in ("sampler", "detector", "mitigator"):
        (container,) = named(overlay, "Deployment", service)["spec"]["template"]["spec"]["containers"]
        limit = size_bytes(container["resources"]["limits"]["memory"])
        assert limit >= int(settings["data"]["LETHE_MODEL_MEMORY_BYTES"]) + 2 * 2**30, "docs/sizing.md reserves as much for the rest"


def size_bytes(quantity: str) -> int:
    """The bytes of a Kubernetes quantity such as 20Gi."""
    return int(quantity[:-2]) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


@every_rendering
def test_mounts_and_volumes_belong_together(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        pod = template["spec"]
        claimed = {"data"} if name.startswith("StatefulSet/") else set()
        offered = {volume["name"] for volume in pod.get("volumes", [])} | claimed
        mounted = {
            mount["name"] for container in [*pod.get("initContainers", []), *pod["containers"]] for mount in container["volumeMounts"]
        }
        assert mounted == offered, name


@every_rendering
def test_images_are_pinned(overlay: str) -> None:
    for name, container, _ in containers(overlay):
        _, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"[A-Za-z]*[.]?\d[\w.-]*", tag), f"{name}: {container['image']}"
        assert "minio/minio" not in container["image"], name


@every_overlay
def test_images_come_from_a_stated_registry(overlay: str) -> None:
    registry = {"cpu-demo": "", "airgapped": "registry.hospital.internal/"}.get(overlay, "registry.example/")
    own = {container["image"] for _, container, _ in containers(overlay) if "lethe" in container["image"]}
    assert own
    assert all(image.startswith(f"{registry}lethe") for image in own)
    if overlay == "cpu-demo":
        policies = {container.get("imagePullPolicy") for _, container, _ in containers(overlay) if container["image"] in own}
        assert policies == {"Never"}
    if overlay == "airgapped":
        assert {container["image"] for _, container, _ in containers(overlay)} == own


@pytest.mark.parametrize(("overlay", "variant"), [("base", "cpu"), ("gpu", "cuda"), ("airgapped", "cuda")])
def test_images_are_those_that_the_build_names(overlay: str, variant: str) -> None:
    used = {container["image"].rpartition("/")[2] for _, container, _ in containers(overlay)}
    assert used == {build.image_name(target, variant) for target in build.TARGETS}


@every_rendering
def test_services_end_within_their_grace(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    drain = int(settings["data"]["LETHE_DRAIN_SECONDS"])
    for service in SERVICES:
        pod = named(overlay, "Deployment", service)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert 5 <= pause <= 10
        # What the service itself may take: the drain of requests, then the jobs' time for a checkpoint, and as long again to settle.
        assert pod["terminationGracePeriodSeconds"] >= pause + drain + 2 * STOP_GRACE.total_seconds() + 10


@every_rendering
def test_probes_ask_the_routes_of_health(overlay: str) -> None:
    for service in SERVICES:
        (container,) = named(overlay, "Deployment", service)["spec"]["template"]["spec"]["containers"]
        asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
        assert asked == {
            probe: {"path": path, "port": "api", "scheme": "HTTPS"}
            for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz"))
        }
        assert container["readinessProbe"]["timeoutSeconds"] > 5, "the service's own patience with what it asks"


@every_rendering
def test_trainer_is_recreated_and_gpus_are_never_waited_for(overlay: str) -> None:
    assert named(overlay, "Deployment", "trainer")["spec"]["strategy"] == {"type": "Recreate"}
    for service in ("sampler", "detector", "mitigator"):
        spec = named(overlay, "Deployment", service)["spec"]
        holds_gpu = "nvidia.com/gpu" in spec["template"]["spec"]["containers"][0]["resources"]["limits"]
        surge = {"maxSurge": 0, "maxUnavailable": 1} if holds_gpu else {"maxSurge": 1, "maxUnavailable": 0}
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": surge}


@every_rendering
def test_every_service_has_a_disruption_budget_of_one(overlay: str) -> None:
    for service in SERVICES:
        budget = named(overlay, "PodDisruptionBudget", service)["spec"]
        labels = named(overlay, "Deployment", service)["spec"]["template"]["metadata"]["labels"]
        assert budget["maxUnavailable"] == 1
        assert selects(budget["selector"], labels)


# ── Settings and secrets ────────────────────────────────────────────────────────────────────────────────────────────


@every_rendering
def test_variables_are_settings_that_exist(overlay: str) -> None:
    known = {f"LETHE_{name.upper()}" for name in Settings.model_fields}
    told = {name for settings in of_kind(overlay, "ConfigMap") for name in settings["data"]}
    told |= {variable["name"] for _, container, _ in containers(overlay) for variable in container.get("env", [])}
    assert {name for name in told if name.startswith("LETHE_")} <= known
    assert {name for name in told if not name.startswith(("LETHE_", "POSTGRES_", "MINIO_", "RAY_AUTH_"))} <= {
        "SSL_CERT_FILE",
        "HOME",
        "PGDATA",
    }


@every_rendering
def test_settings_are_read_by_the_services(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    for name, value in settings["data"].items():
        if name != "LETHE_SECRETS":  # a folder that is not here
            monkeypatch.setenv(name, value)
    read = Settings()
    assert read.auth == "on"
    assert read.store == "s3"
    assert 0 < read.quota_images_per_prompt_per_day <= read.quota_images_per_day, "as many images of a prompt as extraction wants"
    assert read.quota_requests_per_minute > 0
    assert read.tls_certificate == Path("/run/secrets/lethe-tls/tls.crt")
    for service, port in PORTS.items():
        assert urlsplit(getattr(read, f"{service}_url")).port == port


@every_rendering
def test_secrets_are_referred_to_and_never_written(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    told = [value for settings in of_kind(overlay, "ConfigMap") for value in settings["data"].values()]
    for _, container, _ in containers(overlay):
        told += [variable["value"] for variable in container.get("env", [])]
    hidden = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    variables = {name for settings in of_kind(overlay, "ConfigMap") for name in settings["data"]}
    assert not variables & {f"LETHE_{name.upper()}" for name in hidden}
    assert [value for value in told if re.search(r"://[^/\s]+:[^/\s]+@", value)] == []


@every_rendering
def test_pods_mount_the_settings_of_this_rendering(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    assert re.fullmatch(r"lethe-settings-[a-z0-9]{10}", settings["metadata"]["name"])
    used = {source["configMapRef"]["name"] for _, container, _ in containers(overlay) for source in container.get("envFrom", [])}
    assert used == {settings["metadata"]["name"]}


@pytest.fixture(scope="module")
def demo_made() -> list[dict[str, Any]]:
    """What the demo's script makes."""
    find_program("openssl", package="openssl")
    find_program("kubectl", package="kubectl 1.30 or newer")
    script = KUBERNETES / "overlays" / "cpu-demo" / "secrets.sh"
    done = subprocess.run([str(script)], capture_output=True, text=True, check=True, timeout=60)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def demo_secrets(demo_made: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The secrets among it: names, keys and values."""
    return {document["metadata"]["name"]: document["data"] for document in demo_made if document["kind"] == "Secret"}


def test_demo_trusts_its_own_authority(demo_made: list[dict[str, Any]], demo_secrets: dict[str, dict[str, str]]) -> None:
    (trust,) = [document for document in demo_made if document["kind"] != "Secret"]
    assert (trust["kind"], trust["metadata"]["name"]) == ("ConfigMap", "lethe-trust")
    assert trust["data"]["ca.crt"].encode() == base64.b64decode(demo_secrets["lethe-tls"]["ca.crt"])


@every_rendering
def test_authorities_are_a_file_that_the_installation_owns(overlay: str) -> None:
    trusting = [(name, container, pod) for name, container, pod in containers(overlay) if "SSL_CERT_FILE" in str(container.get("env"))]
    assert len(trusting) >= 6
    for name, container, pod in trusting:
        path = next(Path(variable["value"]) for variable in container["env"] if variable["name"] == "SSL_CERT_FILE")
        volume = next(mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent))
        assert {"name": volume, "configMap": {"name": "lethe-trust"}} in pod["volumes"], name
        assert path.name == "ca.crt", name


def test_demo_secrets_are_all_that_the_overlay_refers_to(demo_secrets: dict[str, dict[str, str]]) -> None:
    assert secrets_named("cpu-demo") - MADE_LATER == set(demo_secrets)


@every_overlay
def test_secrets_of_overlays_are_known(overlay: str, demo_secrets: dict[str, dict[str, str]]) -> None:
    assert secrets_named(overlay) <= set(demo_secrets) | MADE_LATER


@every_overlay
def test_secrets_of_overlays_are_told_to_who_installs(overlay: str) -> None:
    page = (ROOT / "docs" / "install-kubernetes.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z0-9-]+)`", page[page.index("### Secrets") : page.index("### Order")]))
    assert secrets_named(overlay) - told == set()


def test_demo_secrets_are_files_that_settings_read(demo_secrets: dict[str, dict[str, str]]) -> None:
    for name in ("lethe-database", "lethe-store-trainer", "lethe-store-admin"):
        assert set(demo_secrets[name]) <= {f"lethe_{field}" for field in Settings.model_fields}


@pytest.mark.parametrize("host", [*SERVICES, "object-store", "trainer.lethe.svc"])
def test_demo_certificate_is_believed_by_its_authority(host: str, demo_secrets: dict[str, dict[str, str]], tmp_path: Path) -> None:
    for name, text in demo_secrets["lethe-tls"].items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # what newer Pythons do by default
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server, server_hostname=host), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(3):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[0].version() == "TLSv1.3"


def test_demo_secrets_hold_every_kept_key(demo_secrets: dict[str, dict[str, str]]) -> None:
    sources = [path.read_text(encoding="utf-8") for top in ("shared", "services") for path in (ROOT / top).rglob("*.py")]
    kept = {name for source in sources for name in re.findall(r'"([a-z-]+\.key)"', source)}
    assert set(demo_secrets["lethe-keys"]) == kept


@every_rendering
def test_services_hold_their_own_store_user_and_no_administrators(overlay: str) -> None:
    for service in SERVICES:
        held = secrets_of(named(overlay, "Deployment", service)["spec"]["template"]["spec"])
        assert {name for name in held if re.search("database|store", name)} == {"lethe-database", f"lethe-store-{service}"}
    users = {f"lethe-store-{user}" for user in PRINCIPALS} if overlay == "cpu-demo" else set()
    for job, store in (("migrate", set()), ("bootstrap", {"lethe-store-admin"} | users)):
        held = secrets_of(named(overlay, "Job", job)["spec"]["template"]["spec"])
        assert {name for name in held if re.search("database|store", name)} == {"lethe-database", "lethe-database-owner"} | store


@every_rendering
@pytest.mark.parametrize("job", ["migrate", "bootstrap"])
def test_jobs_make_the_role_that_services_are_given(overlay: str, job: str) -> None:
    files = secret_files(named(overlay, "Job", job)["spec"]["template"]["spec"])
    assert files["lethe_database_url"] == ("lethe-database-owner", "lethe_database_url")
    assert files["lethe_services_database_url"] == ("lethe-database", "lethe_database_url")
    for service in SERVICES:
        files = secret_files(named(overlay, "Deployment", service)["spec"]["template"]["spec"])
        assert files["lethe_database_url"] == ("lethe-database", "lethe_database_url")
        assert "lethe_services_database_url" not in files


@pytest.mark.parametrize("overlay", ["gpu", "airgapped", "ray"])
def test_store_users_of_all_services_are_granted_their_policies(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    principals = read_principals(Settings(s3_principals=settings["data"]["LETHE_S3_PRINCIPALS"]).store_principals)
    assert principals == {user: f"arn:aws:iam:::user/lethe-{user}" for user in (*SERVICES, "backup")}
    (source,) = named(overlay, "Job", "bootstrap")["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert source["configMapRef"]["name"] == settings["metadata"]["name"]


def test_demo_makes_the_store_users_whose_keys_the_services_hold(
    demo_secrets: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pod = named("cpu-demo", "Job", "bootstrap")["spec"]["template"]["spec"]
    for file, (secret, key) in secret_files(pod).items():
        (tmp_path / file).write_bytes(base64.b64decode(demo_secrets[secret][key]))
    (mounted,) = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "secrets"]
    assert pod["containers"][0]["command"] == ["lethe", "bootstrap", "--minio-users", mounted]
    monkeypatch.setenv("LETHE_STORE", "s3")
    settings = Settings(_secrets_dir=tmp_path)
    users = {user.name: user for user in read_users(tmp_path, POLICIES, settings)}
    for service in SERVICES:
        keys = [base64.b64decode(demo_secrets[f"lethe-store-{service}"][f"lethe_s3_{key}_key"]).decode() for key in ("access", "secret")]
        assert [users[service].access_key, users[service].secret_key] == keys
    with closing(Database.open(settings)) as owner:
        assert settings.services_database_url is not None
        role = services_role(settings.services_database_url.get_secret_value(), owner=owner)
        assert role.name != owner.engine.url.username
        assert role.password != owner.engine.url.password


def secrets_named(overlay: str) -> set[str]:
    """The secrets that an overlay's pods, scrapes and certificates refer to."""
    found = set()
    for _, template in pod_templates(overlay):
        found |= secrets_of(template["spec"])
    for monitor in of_kind(overlay, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            found.add(endpoint["authorization"]["credentials"]["name"])
    return found


def secret_files(pod: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The files that a pod finds in LETHE_SECRETS, each with its secret and the key there."""
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    files = {}
    for source in (source["secret"] for source in volume["projected"]["sources"]):
        for item in source.get("items", [{"key": key, "path": key} for key in FILES.get(source["name"], STORE_FILES)]):
            assert item["path"] not in files, "the later would hide the earlier"
            files[item["path"]] = (source["name"], item["key"])
    return files


def secrets_of(pod: dict[str, Any]) -> set[str]:
    """The secrets that a pod refers to."""
    sources = [source for volume in pod.get("volumes", []) for source in (volume, *volume.get("projected", {}).get("sources", []))]
    mounted = {source["secret"].get("secretName", source["secret"].get("name")) for source in sources if "secret" in source}
    started = [*pod.get("initContainers", []), *pod["containers"]]
    variables = [variable.get("valueFrom", {}).get("secretKeyRef") for one in started for variable in one.get("env", [])]
    variables += [source.get("secretRef") for one in started for source in one.get("envFrom", [])]
    return mounted | {found["name"] for found in [*variables, *pod.get("imagePullSecrets", [])] if found}


@pytest.mark.parametrize("job", ["migrate", "bootstrap"])
def test_jobs_run_commands_that_exist(job: str) -> None:
    commands = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    (container,) = named("base", "Job", job)["spec"]["template"]["spec"]["containers"]
    program, command, *_ = container["command"]
    assert program == "lethe"
    assert command in commands


# ── Network ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_rendering
def test_everything_is_denied_unless_named(overlay: str) -> None:
    policy = named(overlay, "NetworkPolicy", "deny-everything")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@every_rendering
def test_every_way_in_and_out_names_peers_and_ports(overlay: str) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        assert {"Ingress": "ingress" in spec, "Egress": "egress" in spec} == {
            way: name != "deny-everything" and way in spec["policyTypes"] for way in ("Ingress", "Egress")
        }, name
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            peers = rule.get("to") or rule.get("from")
            assert peers, f"{name} lets everybody"
            assert rule["ports"], f"{name} lets every port"
            assert all("port" in port and port["protocol"] in {"TCP", "UDP"} for port in rule["ports"]), name
            for peer in peers:
                assert peer not in ({}, {"podSelector": {}}, {"namespaceSelector": {}}), name
                if "ipBlock" in peer:
                    assert ipaddress.ip_network(peer["ipBlock"]["cidr"]).prefixlen == 32, name


@pytest.mark.parametrize(
    ("overlay", "outside"),
    [
        ("cpu-demo", set()),
        ("gpu", {"192.0.2.10/32:5432", "192.0.2.20/32:443", "192.0.2.30/32:443"}),
        ("airgapped", {"10.20.0.10/32:5432", "10.20.0.20/32:443", "10.20.0.30/32:443"}),
        ("ray", {"192.0.2.10/32:5432", "192.0.2.20/32:443", "192.0.2.30/32:443"}),
    ],
)
def test_nothing_else_outside_the_cluster_is_reached(overlay: str, outside: set[str]) -> None:
    reached = {
        f"{peer['ipBlock']['cidr']}:{port['port']}"
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        for port in rule["ports"]
        if "ipBlock" in peer
    }
    assert reached == outside


@every_overlay
@pytest.mark.parametrize(
    ("service", "peers"),
    [
        ("trainer", {"names", "database", "object-store"}),
        ("sampler", {"names", "database", "object-store"}),
        ("detector", {"names", "database", "object-store"}),
        ("mitigator", {"names", "database", "object-store", "detector"}),
        ("bootstrap", {"names", "database", "object-store"}),
        ("migrate", {"names", "database", "object-store"}),
    ],
)
def test_pods_reach_what_they_need_and_no_more(overlay: str, service: str, peers: set[str]) -> None:
    allowed = {
        "names-are-looked-up": "names",
        "database-is-asked": "database",
        "object-store-is-asked": "object-store",
        "mitigator-asks-detector": "detector",
        "identity-provider-is-asked": "identity-provider",
        "ray-nodes-with-one-another": "ray",
    }
    kind = "Deployment" if service in SERVICES else "Job"
    labels = named(overlay, kind, service)["spec"]["template"]["metadata"]["labels"]
    reached = {
        allowed[policy["metadata"]["name"]]
        for policy in of_kind(overlay, "NetworkPolicy")
        if policy["spec"].get("egress") and selects(policy["spec"]["podSelector"], labels)
    }
    peers = peers | ({"identity-provider"} if overlay != "cpu-demo" and kind == "Deployment" else set())
    peers |= {"ray"} if (overlay, service) == ("ray", "trainer") else set()
    assert reached == peers


@every_rendering
def test_peers_inside_the_namespace_are_pods_that_exist(overlay: str) -> None:
    outside = {"database", "object-store"} if overlay == "base" else set()
    pods = [template["metadata"]["labels"] for _, template in pod_templates(overlay)]
    for policy in of_kind(overlay, "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        inside = [peer for rule in rules for peer in rule.get("to", rule.get("from")) if set(peer) == {"podSelector"}]
        for peer in inside:
            found = any(selects(peer["podSelector"], labels) for labels in pods)
            assert found or peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] in outside, policy["metadata"]["name"]
        assert any(selects(policy["spec"]["podSelector"], labels) for labels in pods), policy["metadata"]["name"]


@every_rendering
def test_peers_in_other_namespaces_are_not_asked_for_lethes_label(overlay: str) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            outside = [peer for peer in rule.get("to", rule.get("from")) if "namespaceSelector" in peer]
            assert all("app.kubernetes.io/part-of" not in str(peer) for peer in outside), policy["metadata"]["name"]


@every_rendering
def test_selectors_take_the_pods_of_their_own(overlay: str) -> None:
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
        for resource in of_kind(overlay, kind):
            name, selector = resource["metadata"]["name"], resource["spec"]["selector"]
            selector = {"matchLabels": selector} if kind == "Service" else selector
            chosen = [of for of, template in pod_templates(overlay) if selects(selector, template["metadata"]["labels"])]
            assert [of.partition("/")[2] for of in chosen] == [name], f"{kind}/{name}"


@every_rendering
@pytest.mark.parametrize("service", SERVICES)
def test_ports_match_from_setting_to_pod(overlay: str, service: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    url = urlsplit(settings["data"][f"LETHE_{service.upper()}_URL"])
    (port,) = named(overlay, "Service", service)["spec"]["ports"]
    template = named(overlay, "Deployment", service)["spec"]["template"]
    (offered,) = template["spec"]["containers"][0]["ports"]
    assert (url.scheme, url.hostname, url.port) == ("https", service, PORTS[service])
    assert port == {"name": "api", "port": PORTS[service], "targetPort": "api"}
    assert offered == {"name": "api", "containerPort": PORTS[service]}
    selector = named(overlay, "Service", service)["spec"]["selector"]
    assert selects({"matchLabels": selector}, template["metadata"]["labels"])
    assert named(overlay, "Service", service)["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_certificate_names_every_service() -> None:
    names = set(named("gpu", "Certificate", "lethe-tls")["spec"]["dnsNames"])
    assert names == {form for service in SERVICES for form in (service, f"{service}.lethe.svc")}


# ── What watches and scales ─────────────────────────────────────────────────────────────────────────────────────────


def test_prometheus_rule_is_written_from_the_one_file_of_rules() -> None:
    text = write_rules.RULES.read_text(encoding="utf-8")
    assert write_rules.RESOURCE.read_text(encoding="utf-8") == write_rules.prometheus_rule(text), "run make kubernetes-rules"
    assert named("gpu", "PrometheusRule", "lethe")["spec"]["groups"] == yaml.safe_load(text)["groups"]


@pytest.mark.parametrize("overlay", ["gpu", "airgapped", "ray"])
def test_every_service_is_scraped_with_a_key_over_tls(overlay: str) -> None:
    monitor = named(overlay, "ServiceMonitor", "lethe")["spec"]
    (endpoint,) = monitor["endpoints"]
    scraped = {
        service["metadata"]["name"]
        for service in of_kind(overlay, "Service")
        if selects(monitor["selector"], service["metadata"]["labels"])
    }
    assert scraped == set(SERVICES)
    assert endpoint["scheme"] == "https"
    assert endpoint["authorization"]["credentials"] == {"name": "lethe-metrics-key", "key": "lethe_metrics_key"}
    assert endpoint["tlsConfig"]["serverName"] in named(overlay, "Certificate", "lethe-tls")["spec"]["dnsNames"]
    assert endpoint["tlsConfig"]["ca"] == {
        "configMap": {"name": "lethe-trust", "key": "ca.crt"}
    }  # as pods trust; not every issuer tells ca.crt
    assert {service["metadata"]["labels"][monitor["jobLabel"]] for service in of_kind(overlay, "Service")} == {"lethe"}


@pytest.mark.parametrize("overlay", ["gpu", "airgapped", "ray"])
def test_services_scale_with_their_queue_and_trainings_never(overlay: str) -> None:
    scaled = {item["spec"]["scaleTargetRef"]["name"]: item["spec"] for item in of_kind(overlay, "ScaledObject")}
    assert set(scaled) == {"sampler", "detector", "mitigator"}
    for service, spec in scaled.items():
        (trigger,) = spec["triggers"]
        metric = re.fullmatch(rf'sum\((lethe_\w+)\{{job="lethe", service="{service}"\}}\)', trigger["metadata"]["query"])
        assert metric is not None
        assert metric[1] in known_metrics()
        assert float(trigger["metadata"]["activationThreshold"]) < float(trigger["metadata"]["threshold"])
        assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 1800
        assert "replicas" not in named(overlay, "Deployment", service)["spec"], "KEDA would be set back at every apply"


def known_metrics() -> set[str]:
    """Every metric's name that the code makes."""
    sources = [path.read_text(encoding="utf-8") for top in ("shared", "services") for path in (ROOT / top).rglob("*.py")]
    return {name for source in sources for name in re.findall(r'(?:Gauge|Counter|Histogram)\(\s*"(lethe_\w+)"', source)}


# ── Ray ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ray_asks_for_tokens_and_is_the_locked_version() -> None:
    spec = named("ray", "RayCluster", "lethe-ray")["spec"]
    (locked,) = re.findall(r"^ray==([\d.]+)", (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert spec["rayVersion"] == locked
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["include-dashboard"] == "false"
    assert not {kind["kind"] for kind in rendered("ray")} & {"Ingress", "HTTPRoute"}


def test_ray_nodes_run_the_trainers_image_with_its_settings() -> None:
    trainer = {name: container for name, container, _ in containers("ray") if name.startswith("Deployment/trainer/")}
    workers = [container for name, container, _ in containers("ray") if name.startswith("RayCluster/lethe-ray/gpu/")]
    service = trainer["Deployment/trainer/lethe"]
    for container in [*workers, trainer["Deployment/trainer/ray-node"]]:
        assert container["image"] == service["image"]
    for container in workers:
        assert container["envFrom"] == service["envFrom"]
        assert {variable["name"]: variable["value"] for variable in container["env"]} == {
            variable["name"]: variable["value"] for variable in service["env"]
        }


def test_ray_is_reached_by_its_nodes_alone() -> None:
    labels = [template["metadata"]["labels"] for name, template in pod_templates("ray") if name.startswith("RayCluster/")]
    assert all(label["lethe-ray"] == "node" for label in labels)
    for label in labels:
        letting_in = [
            policy
            for policy in of_kind("ray", "NetworkPolicy")
            if policy["spec"].get("ingress") and selects(policy["spec"]["podSelector"], label)
        ]
        assert [policy["metadata"]["name"] for policy in letting_in] == ["ray-nodes-with-one-another"]
        ((rule,),) = [policy["spec"]["ingress"] for policy in letting_in]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"lethe-ray": "node"}}}]
