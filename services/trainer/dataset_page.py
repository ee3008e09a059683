"""The page of a data set: counts, histograms, anonymity, gates, sample films and warnings, in one HTML file without any other."""

from __future__ import annotations

import base64
from typing import Any, Final

from pydantic import JsonValue

from services.trainer.bar_charts import column_chart, row_chart
from services.trainer.html_pages import page_template
from shared.catalog import Catalog, DatasetManifest
from shared.imaging.contact_sheet import CONTACT_SHEET_NAME

_TEMPLATE: Final = "dataset.html"
_SPLITS: Final = {"train": "trained on", "canary": "canaries, trained on and repeated", "control": "held out, never trained on"}
_GATES: Final = {
    "words": "no words for the prompt",
    "deidentification": "de-identification marks, dates, record numbers",
    "prompt_length": "prompt longer than the encoder reads",
    "k_anonymity": "prompt of few patients",
    "burned_in": "writing in the picture",
    "duplicates": "pixels of an earlier film",
    "near_duplicates": "looks like an earlier film",
    "max_films_per_patient": "beyond the cap of a patient",
}


def render_page(manifest: DatasetManifest, catalog: Catalog) -> str:
    """The page of a committed data set."""
    films = sum(manifest.counts.values())
    return page_template(_TEMPLATE).render(
        manifest=manifest,
        films=films,
        patients=manifest.prompt_uniqueness.get("patients"),  # a patient with a canary has other films that are trained on
        splits=[(what, manifest.counts[name], manifest.patients.get(name, 0)) for name, what in _SPLITS.items() if name in manifest.counts],
        sheet=_sheet(manifest, catalog),
        charts=_charts(manifest, films),
        anonymity=_anonymity(manifest),
        gates=[_gate(name, what, manifest.gates[name]) for name, what in _GATES.items() if name in manifest.gates],
        facts=_facts(manifest),
    )


def _sheet(manifest: DatasetManifest, catalog: Catalog) -> str | None:
    """The sample films as a data URI; data sets of version 0.1 have none."""
    if not any(entry.path == CONTACT_SHEET_NAME for entry in manifest.files):
        return None
    return "data:image/png;base64," + base64.b64encode(catalog.read_file(manifest, CONTACT_SHEET_NAME)).decode("ascii")


def _charts(manifest: DatasetManifest, films: int) -> list[tuple[str, str]]:
    told = manifest.histograms
    labels = dict(sorted(told.get("labels", {}).items(), key=lambda pair: -pair[1]))
    uncertain = dict(sorted(told.get("uncertain_labels", {}).items(), key=lambda pair: -pair[1]))
    charts = [
        ("Age", column_chart("Films by decade of age", told.get("age", {}))),
        ("Sex", row_chart("Films by sex", told.get("sex", {}), films)),
        ("View", row_chart("Films by view", told.get("view", {}), films)),
        ("Labels, present", row_chart("Films by label that is present", labels, films)),
        ("Labels, uncertain", row_chart("Films by label that is uncertain", uncertain, films)),
    ]
    known = (told.get("age"), told.get("sex"), told.get("view"), labels, uncertain)
    return [chart for chart, counts in zip(charts, known, strict=True) if counts]


def _anonymity(manifest: DatasetManifest) -> list[dict[str, Any]]:
    """Films and patients by how few patients share a prompt; only counts of films with k = 1 were kept in version 0.1."""
    table = manifest.prompt_uniqueness
    bounds = [int(figure.removeprefix("rows_k")) for figure in table if figure.startswith("rows_k") and "rows" in table]
    return [
        {
            "prompt": "of one patient only" if bound == 1 else f"of fewer than {bound} patients",
            "films": table[f"rows_k{bound}"],
            "films_share": table[f"rows_k{bound}"] / max(1, table["rows"]),
            "patients": table[f"patients_k{bound}"],
            "patients_share": table[f"patients_k{bound}"] / max(1, table["patients"]),
        }
        for bound in sorted(bounds)
    ]


def _gate(name: str, what: str, result: dict[str, JsonValue]) -> dict[str, Any]:
    return {
        "what": what,
        "action": result["action"],
        "films": result["films"],
        "patients": result["patients"],
        "dropped": result["dropped"],
        "lines": result["first_lines"],
        "notes": _notes(name, result),
    }


def _notes(name: str, result: dict[str, JsonValue]) -> list[str]:
    """What a gate's own figures say."""
    markers = result.get("markers")
    if name == "deidentification" and isinstance(markers, dict):
        found = ", ".join(f"{count} {kind}s" for kind, count in markers.items() if count)
        scrubbed = f"; {result['scrubbed']} films scrubbed" if result["scrubbed"] else ""
        return [f"in the source: {found}{scrubbed}"] if found else []
    if name == "prompt_length":
        measured = f"longest {result['longest']} of {result['limit']} tokens"
        return [measured if result["limit"] is not None else "not measured: no encoder was named"]
    if name == "burned_in":
        return [] if result["examined"] else ["pictures too small to be examined; tags only"]
    if name in {"duplicates", "near_duplicates"} and result["films"]:
        return [f"{result['within_patient']} within one patient, {result['across_patients']} across patients"]
    if name == "k_anonymity":
        generalised = result.get("generalised")
        return [f"k = {result['k']}" + (f"; {generalised} films with the decade instead of the age" if generalised else "")]
    return []


def _facts(manifest: DatasetManifest) -> list[tuple[str, str]]:
    """How the data set came about."""
    spec = manifest.lineage.get("spec")
    source = spec.get("source") if isinstance(spec, dict) else None
    prompt = spec.get("prompt") if isinstance(spec, dict) else None
    told = [
        ("id", manifest.id),
        ("registered", f"{manifest.created:%Y-%m-%d %H:%M} UTC"),
        ("films", f"{manifest.image_size} pixels square"),
    ]
    if isinstance(source, dict):
        told.append(("source", str(source.get("format"))))
    if isinstance(prompt, dict):
        recipe = f"{prompt.get('template')}, uncertain labels: {prompt.get('uncertain')}, age: {prompt.get('age', 'exact')}"
        told.append(("prompts", recipe))
    size = sum(entry.size_bytes for entry in manifest.files)
    told += [("seed", str(manifest.seed)), ("files", f"{len(manifest.files)}, {size / 2**20:.1f} MiB"), ("digest", manifest.digest)]
    return told
