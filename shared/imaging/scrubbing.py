"""Finds what de-identification leaves in radiologists' text, and what it should not have left: marks, dates, record numbers.

A model learns such words like any others, and a date or a number that belongs to one patient is a key to that patient's film.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Marker = Literal["mark", "date", "number"]
"""A mark of de-identification (`___`, `[** … **]`, XXXX), a date, or a number like a record's or a telephone's."""

_MONTH: Final = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?"
    r"|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_YEAR: Final = r"(?:19|20|21|22)\d\d"  # shifted dates reach far into the future
_DAY: Final = r"\d{1,2}(?:st|nd|rd|th)?"
_ANNOUNCED: Final = r"(?:mrn|medical record|accession|patient|study|exam|examination|record|case|visit)"

_WORDINGS: Final[Mapping[Marker, Sequence[str]]] = {
    "mark": (
        r"\[\*\*[^\]]*\*\*\]",
        r"[\[<](?:redacted|name|date|phi|removed|de-?identified)[\]>]",
        r"_{2,}(?:[- ]?(?:years?|yrs?|y)[- /]?(?:old|o)\b)?",
        r"\bX{4,}\b",
        r"(?-i:\b(?:PHI|REDACTED)\b)",
    ),
    "date": (
        rf"\b{_YEAR}(?P<iso>[-/.])\d{{1,2}}(?P=iso)\d{{1,2}}\b",
        r"\b\d{1,2}(?P<part>[/.-])\d{1,2}(?P=part)(?:\d{4}|\d\d)\b",
        rf"\b{_DAY}[ -](?:of )?{_MONTH}(?:,?[ -]{_YEAR}\b)?",
        rf"\b{_MONTH} {_DAY}\b(?:,? {_YEAR}\b)?",
        rf"\b{_MONTH},? {_YEAR}\b",
        r"(?:(?<=\bon )|(?<=\bdated ))\d{1,2}/\d{1,2}\b",  # a day and a month alone may be a fraction
    ),
    "number": (
        # After a word that announces it, a number of four digits is a record's; alone, one of six.
        rf"\b{_ANNOUNCED}(?: (?:id|number|no\.?))? ?[:#]? ?[a-z]{{0,4}}-?\d[-\d]{{2,}}\d\b",
        r"\(?\b\d{3}\)?[-. ]\d{3}[-. ]\d{4}\b",
        r"\b\d{3}-\d\d-\d{4}\b",
        r"\b[a-z]{0,3}\d{6,}\b",
    ),
}
_PATTERNS: Final = {kind: re.compile("|".join(wordings), re.IGNORECASE) for kind, wordings in _WORDINGS.items()}

_GAP: Final = "\0"  # stands for what was taken out until its surroundings are mended
_LEADING_UP: Final = re.compile(  # words that say nothing without what followed them
    rf"(?:\b(?:of|on|in|at|to|from|dated|with|by|since|the|and|dr|mr|mrs|ms|prof)\b\.?\s+)+(?={_GAP})", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Marked:
    """A stretch of a text, characters from `start` up to `end`, that a marker takes."""

    kind: Marker
    start: int
    end: int


def find_markers(text: str) -> list[Marked]:
    """All markers of a text in order; where two overlap, the one that begins first."""
    found = [Marked(kind, *match.span()) for kind, pattern in _PATTERNS.items() for match in pattern.finditer(text)]
    kept: list[Marked] = []
    for marked in sorted(found, key=lambda marked: (marked.start, -marked.end)):
        if not kept or marked.start >= kept[-1].end:
            kept.append(marked)
    return kept


def count_markers(text: str) -> dict[str, int]:
    """How many markers of each kind a text has; kinds without any are left out."""
    return dict(Counter[str](marked.kind for marked in find_markers(text)))


def scrub(text: str) -> str:
    """Take all markers out, with what says nothing without them; the rest of the text stays as it is, on one line."""
    parts, position = [], 0
    for marked in find_markers(text):
        age = "old" in text[marked.start : marked.end]  # "a ___-year-old woman" keeps its article
        parts += [text[position : marked.start], "" if age else _GAP]
        position = marked.end
    if not parts:
        return " ".join(text.split())
    return _mend("".join([*parts, text[position:]]))


def _mend(text: str) -> str:
    text = _LEADING_UP.sub("", text).replace(_GAP, "")
    text = re.sub(r"[(\[]\s*[)\]]", "", text)
    text = re.sub(r"\s+(?=[.,;:)])", "", " ".join(text.split()))
    text = re.sub(r"[.,;:](?:\s*[.,;:])+", lambda stops: "." if "." in stops.group() else stops.group()[0], text)
    return text.strip(",;: ").lstrip(".,;: ")
