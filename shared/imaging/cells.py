"""The cells of a table's row, read one by one; what is wrong with several of them is told together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from shared.errors import DatasetError

MAX_AGE: Final = 120
LATERAL_VIEWS: Final = frozenset({"LATERAL", "LL", "RL", "XTABLE LATERAL"})
_SEXES: Final[Mapping[str, str]] = {
    "male": "Male",
    "m": "Male",
    "female": "Female",
    "f": "Female",
    "unknown": "Unknown",
    "u": "Unknown",
    "o": "Unknown",
    "": "Unknown",
}
_LABEL_VALUES: Final[Mapping[str, int | None]] = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}


class Cells:
    """Reads the cells of one row, named by `where`; `check` raises one DatasetError for all that are wrong."""

    def __init__(self, row: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._row = row
        self.faults: list[str] = []

    def fault(self, rule: str) -> None:
        """Take note of what the row breaks."""
        self.faults.append(rule)

    def take(self, rules: Iterable[str]) -> None:
        """Take note of all that the row, or what it names, breaks."""
        self.faults += rules

    def check(self) -> None:
        """Raise for all faults; without any, do nothing."""
        if self.faults:
            raise DatasetError(f"{self.where}: {'; '.join(self.faults)}")

    def text(self, column: str) -> str:
        """A cell as text without blanks around it; empty when the row has no such cell."""
        value = self._row.get(column)
        if isinstance(value, bool):
            return str(int(value))
        if value is None or isinstance(value, str | int | float):
            return "" if value is None else str(value).strip()
        self.fault(f"column {column} must be text or a number")
        return ""

    def required(self, column: str) -> str:
        """A cell that must not be blank."""
        text = self.text(column)
        if not text:
            self.fault(f"column {column} must not be blank")
        return text

    def sex(self, column: str) -> str:
        """Male, Female or Unknown; blank is unknown."""
        text = self.text(column)
        sex = _SEXES.get(text.lower())
        if sex is None:
            self.fault(f"column {column} must be Male, Female or Unknown")
        return sex or "Unknown"

    def age(self, column: str) -> int | None:
        """Whole years; None when blank."""
        text = self.text(column)
        try:
            age = float(text or 0)
        except ValueError:
            self.fault(f"column {column} must be a number")
            return None
        if not 0 <= age <= MAX_AGE:
            self.fault(f"column {column} must be from 0 to {MAX_AGE}")
            return None
        return int(age) if text else None

    def label(self, column: str) -> int | None:
        """1 present, 0 absent, -1 uncertain, None not mentioned."""
        text = self.text(column)
        if text not in _LABEL_VALUES:
            self.fault(f"column {column} must be 1.0, 0.0, -1.0 or blank")
        return _LABEL_VALUES.get(text)

    def image(self, path: Path | None, named: str) -> Path:
        """The file of the image that the row names."""
        if path is None:
            self.fault(f"the image {named} is missing from the data set's folder")
        return path or Path()


def view_of(text: str) -> str:
    """A projection as films name it: AP, PA, lateral, as the source writes a rarer one, or unknown."""
    plain = " ".join(text.upper().split())
    if plain in LATERAL_VIEWS:
        return "lateral"
    return {"FRONTAL": "frontal", "": "unknown"}.get(plain, plain)


def projections_of(view: str) -> frozenset[str]:
    """What a film of this view may be asked for by."""
    if view in {"AP", "PA"}:
        return frozenset({"frontal", view})
    return frozenset({view if view in {"frontal", "lateral"} else "other"})
