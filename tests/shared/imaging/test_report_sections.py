"""Reports are taken apart by their headings."""

from __future__ import annotations

import pytest

from shared.imaging.report_sections import NO_REPORT, Report, read_report

WHOLE = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for infection

 COMPARISON:  None.

 FINDINGS:

 There is no focal
 consolidation: clear.

 IMPRESSION:

 1. No acute process.
"""


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (WHOLE, Report("1. No acute process.", "There is no focal consolidation: clear. 1. No acute process.")),
        ("Findings: Edema.\nImpression: Worse.", Report("Worse.", "Edema. Worse.")),
        ("FINDINGS AND IMPRESSION: Edema.", Report("Edema.", "Edema.")),
        ("CONCLUSION: Edema.\r\nRECOMMENDATION: None.", Report("Edema.", "Edema.")),
        ("IMPRESSION:\n\nFINDINGS: Edema.", Report(None, "Edema.")),
        ("IMPRESSION: Edema.\nADDENDUM: x\nIMPRESSION: Better.", Report("Edema. Better.", "Edema. Better.")),
        ("FINAL REPORT\n\nHISTORY: Cough.\n\nThe heart is\n large.\n\n", Report(None, "The heart is large.")),
        ("HISTORY: Cough.", NO_REPORT),
        ("", NO_REPORT),
    ],
)
def test_sections_are_found(text: str, report: Report) -> None:
    assert read_report(text) == report
