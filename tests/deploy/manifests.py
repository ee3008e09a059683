"""What kustomize makes of deploy/kubernetes, and the parts of it that tests look at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.servers.absence import find_program

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
OVERLAYS = ("cpu-demo", "gpu", "airgapped", "ray")
# The oldest Kubernetes that the manifests are for (preStop sleep is on by default since then), and the newest that is known.
OLDEST, NEWEST = "1.30", "1.37"

Resource = dict[str, Any]


@cache
def rendered(overlay: str) -> tuple[Resource, ...]:
    """The resources of an overlay, or of the base, as `kubectl apply -k` would send them."""
    kubectl = find_program("kubectl", package="kubectl 1.30 or newer")
    folder = KUBERNETES / "base" if overlay == "base" else KUBERNETES / "overlays" / overlay
    done = subprocess.run([kubectl, "kustomize", str(folder)], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def of_kind(overlay: str, kind: str) -> list[Resource]:
    """An overlay's resources of one kind."""
    return [resource for resource in rendered(overlay) if resource["kind"] == kind]


def named(overlay: str, kind: str, name: str) -> Resource:
    """One resource of an overlay."""
    (found,) = [resource for resource in of_kind(overlay, kind) if resource["metadata"]["name"] == name]
    return found


def pod_templates(overlay: str) -> Iterator[tuple[str, Resource]]:
    """Every pod template of an overlay, with a name for messages; those within custom resources too."""
    for resource in rendered(overlay):
        spec = resource.get("spec", {})
        name = f"{resource['kind']}/{resource['metadata']['name']}"
        if resource["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield name, spec["template"]
        elif resource["kind"] == "RayCluster":
            yield f"{name}/head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name}/{group['groupName']}", group["template"]
        else:
            assert "template" not in spec, f"{name} has a pod template that no test looks at"


def containers(overlay: str) -> Iterator[tuple[str, Resource, Resource]]:
    """Every container of an overlay, those that start before others included, with its pod's spec."""
    for name, template in pod_templates(overlay):
        pod = template["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}/{container['name']}", container, pod


def validate(resource: Resource, version: str) -> None:
    """Hold a resource to Kubernetes' own strict schema, or to ours of a custom resource; ValidationError says what is wrong."""
    schema = SCHEMAS / f"{resource['kind'].lower()}.json"
    if not schema.exists():
        kubernetes_validate.validate(resource, version, strict=True)
        return
    jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(resource)


def validate_template(template: Resource, version: str) -> None:
    """Hold the pod template within a custom resource to Kubernetes' own strict schema."""
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "template"}, "template": template}
    kubernetes_validate.validate(wrapped, version, strict=True)


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector, of any form, takes something with these labels."""
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(_meets(expression, labels) for expression in selector.get("matchExpressions", []))


def _meets(expression: Resource, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            return value is None
