"""docs/metrics.md tells of exactly the metrics that the code makes, and of every value that a label takes."""

from __future__ import annotations

import ast
import re

import pytest
from prometheus_client import generate_latest

from shared.http.problem_metrics import REJECTED
from tests.metrics_in_code import OF_PROCESSES, ROOT, Metric, labels_in, metrics_in_code, metrics_of, names_in, sources_with_metrics
from tests.servers.prometheus import promtool

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def documented() -> dict[str, Metric]:
    """The metrics of the page's first table."""
    rows = re.findall(r"^\| `(lethe_\w+)` \| (\w+) \| (.*?) \|", PAGE, flags=re.MULTILINE)
    return {name: Metric(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_page_tells_of_exactly_the_metrics_that_the_code_makes() -> None:
    assert documented() == metrics_in_code()


def test_page_names_each_metric_once_and_who_tells_it() -> None:
    rows = re.findall(r"^\| `(lethe_\w+)` \|[^|]*\|[^|]*\| ([^|]*) \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    services = {"all", "trainer", "sampler", "detector", "mitigator"}
    assert [name for name, tellers in rows if not set(tellers.split(", ")) <= services] == []


def test_page_tells_what_every_process_tells() -> None:
    exposed = set(re.findall(r"^# TYPE ((?:process|python)_\w+)", generate_latest().decode(), flags=re.MULTILINE))
    assert exposed == set(OF_PROCESSES)
    assert [name for name in OF_PROCESSES if f"`{name}`" not in PAGE] == []


def test_page_tells_the_values_of_every_label() -> None:
    table = PAGE.partition("## Labels")[2]
    rows = {name for cell in re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
    labels = {label for metric in metrics_in_code().values() for label in metric.labels}
    assert labels - rows == set()


@pytest.mark.parametrize("metric", metrics_in_code().values(), ids=lambda metric: metric.name)
def test_metric_is_named_as_the_house_names_them(metric: Metric) -> None:
    assert re.fullmatch(r"lethe_[a-z][a-z0-9_]*[a-z0-9]", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert not set(metric.labels) & {"prompt", "patient", "user", "caller", "key", "id", "job", "model", "dataset", "path", "instance"}


def test_modules_take_what_makes_metrics_by_name() -> None:
    """What is made in another way would escape the reading of the source."""
    nodes = [node for text in sources_with_metrics().values() for node in ast.walk(ast.parse(text))]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in whole | parts if name.startswith("prometheus_client")} - {"prometheus_client"}
    assert "prometheus_client" not in whole


def test_exposition_satisfies_promtool() -> None:
    REJECTED.labels(reason="body")
    told = generate_latest().decode()
    lethes = re.sub(r"^(?:# (?:HELP|TYPE) )?(?:python|process|told)_.*\n", "", told, flags=re.MULTILINE)
    done = promtool("check", "metrics", given=lethes)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_metrics_are_read_from_source_under_any_name_of_their_class() -> None:
    imports = "from prometheus_client import Counter as C, Gauge\nfrom collections import Counter\n"
    source = f"{imports}C('a_total', 'x', ['b'])\nGauge('c', 'x')\nCounter('d')"
    assert list(metrics_of(source)) == [Metric("a_total", "counter", ("b",)), Metric("c", "gauge", ())]


@pytest.mark.parametrize(
    ("expression", "names", "labels"),
    [
        ('sum by (service) (rate(a_total{code=~"5..", x!="{y}"}[5m])) > 0', {"a_total"}, {"service", "code", "x"}),
        ("a / on (b) group_left (c) 2 * d offset 5m", {"a", "d"}, {"b", "c"}),
        ('absent(up{job="lethe"}) or vector(0)', {"up"}, {"job"}),
        ("histogram_quantile(0.9, sum by (le) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}, {"le"}),
    ],
)
def test_expression_is_taken_apart(expression: str, names: set[str], labels: set[str]) -> None:
    assert (names_in(expression), labels_in(expression)) == (names, labels)
