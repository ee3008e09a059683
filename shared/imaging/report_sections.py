"""Takes a radiologist's report apart by its headings, as MIMIC-CXR's reports have them ("FINDINGS:", "IMPRESSION:")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_HEADING: Final = re.compile(
    # A line that begins with capitals and a colon, or with one of the two sections in any case.
    r"^[ \t]*(?P<name>[A-Z][A-Z /,&()'-]{3,60}|(?i:findings|impressions?|conclusions?))[ \t]*:",
    re.MULTILINE,
)
_FINDINGS: Final = re.compile(r"FINDINGS?\b")
_IMPRESSION: Final = re.compile(r"IMPRESSIONS?|CONCLUSIONS?")


@dataclass(frozen=True, slots=True)
class Report:
    """What is taken from a report: its conclusion, and findings with conclusion (without headings, its last paragraph)."""

    impression: str | None
    text: str | None


NO_REPORT: Final = Report(impression=None, text=None)


def read_report(text: str) -> Report:
    """Find the sections of a report; a section that is repeated counts as often as it stands there."""
    headings = list(_HEADING.finditer(text))
    starts = [*(heading.start() for heading in headings), len(text)]
    sections = [
        (heading["name"].upper(), " ".join(text[heading.end() : end].split())) for heading, end in zip(headings, starts[1:], strict=True)
    ]
    impression = " ".join(body for name, body in sections if body and _IMPRESSION.search(name))
    findings = " ".join(body for name, body in sections if body and _FINDINGS.search(name) and not _IMPRESSION.search(name))
    whole = f"{findings} {impression}".strip() or _last_paragraph(text)
    return Report(impression=impression or None, text=whole or None)


def _last_paragraph(text: str) -> str:
    """What a report without headings says is in its last paragraph, below what was asked and how the film was taken."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return next((part for part in reversed(paragraphs) if part and not _HEADING.match(part)), "")
