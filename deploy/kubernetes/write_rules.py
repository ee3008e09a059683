"""Write the PrometheusRule of the monitoring component from deploy/prometheus/rules.yml, which kustomize itself cannot take in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

RULES: Final = Path(__file__).parents[1] / "prometheus" / "rules.yml"
RESOURCE: Final = Path(__file__).parent / "components" / "monitoring" / "prometheus-rule.yaml"
HEAD: Final = """\
# Written by `make kubernetes-rules` from deploy/prometheus/rules.yml, where rules are changed.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: lethe
spec:
"""


def prometheus_rule(rules: str) -> str:
    """The resource that holds the groups of a rules file, word for word."""
    groups = rules[rules.index("groups:") :]
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


def main() -> None:
    """Write the resource."""
    RESOURCE.write_text(prometheus_rule(RULES.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
