"""The metrics that the code makes, read from its source, and the metrics that an expression asks for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
TYPES = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Summary": "summary", "Info": "info", "Enum": "enum"}
# What Prometheus itself says of each target, and what prometheus_client says of each process.
OF_SCRAPES = {"up": {"job", "instance", "service"}}
OF_PROCESSES = {
    "process_virtual_memory_bytes": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "python_info": "gauge",
    "python_gc_objects_collected_total": "counter",
    "python_gc_objects_uncollectable_total": "counter",
    "python_gc_collections_total": "counter",
}
# Labels that the scrape puts on every series.
TARGET_LABELS = {"job", "instance", "service"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass(frozen=True)
class Metric:
    """One metric as it is made."""

    name: str
    type: str
    labels: tuple[str, ...]

    @property
    def series(self) -> set[str]:
        """The names under which its values are told."""
        return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")} if self.type == "histogram" else {self.name}


@cache
def sources_with_metrics() -> dict[str, str]:
    """The modules of Lethe that speak of prometheus_client, with their text."""
    texts = {str(path): path.read_text(encoding="utf-8") for top in ("shared", "services") for path in sorted((ROOT / top).rglob("*.py"))}
    return {path: text for path, text in texts.items() if "prometheus_client" in text}


@cache
def metrics_in_code() -> dict[str, Metric]:
    """Every metric that a module of Lethe makes, by name."""
    return {metric.name: metric for text in sources_with_metrics().values() for metric in metrics_of(text)}


def metrics_of(source: str) -> Iterator[Metric]:
    """The metrics that a module makes; what it takes from prometheus_client must be called with its name and labels written out."""
    tree = ast.parse(source)
    makers = {
        (alias.asname or alias.name): TYPES[alias.name]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for alias in node.names
        if alias.name in TYPES
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
            labels = node.args[2] if len(node.args) > 2 else ast.List(elts=[])
            yield Metric(ast.literal_eval(node.args[0]), makers[node.func.id], tuple(ast.literal_eval(labels)))


def names_in(expression: str) -> set[str]:
    """The series that a PromQL expression asks for, `{…}`, texts, label lists and functions left out."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|'[^']*'|\"\"", " ", without_texts(expression))
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {name for name in re.findall(r"(?<![\w$:.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare) if name not in KEYWORDS}


def without_texts(expression: str) -> str:
    """The expression with the texts of its matchers emptied, which may hold braces."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)


def labels_in(expression: str) -> set[str]:
    """The labels that a PromQL expression matches or groups by."""
    bare = without_texts(expression)
    matched = {label for inside in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)}
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare)
    return matched | {label.strip() for inside in lists for label in inside.split(",") if label.strip()}


@cache
def known_series() -> dict[str, set[str]]:
    """The labels of every series that a scraped Lethe has, by name."""
    known = OF_SCRAPES | dict.fromkeys(OF_PROCESSES, TARGET_LABELS)
    for metric in metrics_in_code().values():
        for series in metric.series:
            known[series] = {*metric.labels, *TARGET_LABELS} | ({"le"} if series.endswith("_bucket") else set())
    return known


def unknown_in(expression: str) -> set[str]:
    """What an expression asks for that no scraped Lethe has: series, and labels that none of its series carries."""
    known = known_series()
    names = names_in(expression)
    labels = {label for name in names & set(known) for label in known[name]}
    return (names - set(known)) | (labels_in(expression) - labels)
