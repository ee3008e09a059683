"""What de-identification left is found, counted and taken out; measures and counts stay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.imaging.scrubbing import count_markers, find_markers, scrub


@pytest.mark.parametrize(
    ("text", "counts", "scrubbed"),
    [
        ("PA and lateral views of the chest ___.", {"mark": 1}, "PA and lateral views of the chest."),
        ("Comparison is made to ___, no change.", {"mark": 1}, "Comparison is made, no change."),
        ("Discussed with Dr. ___ on ___ at 10:30.", {"mark": 2}, "Discussed at 10:30."),
        ("a ___-year-old woman", {"mark": 1}, "a woman"),
        ("___ year old man with edema", {"mark": 1}, "man with edema"),
        ("___F with edema", {"mark": 1}, "F with edema"),
        ("[**Name2 (NI) 123**] has effusion (___).", {"mark": 2}, "has effusion."),
        ("XXXX-year-old, [REDACTED], PHI, <NAME>", {"mark": 4}, "-year-old"),
        ("Compared to 01/31/2019; stable.", {"date": 1}, "Compared; stable."),
        ("Since 2019-03-04, 12.3.20 and 31 Jan 2020.", {"date": 3}, ""),
        ("On March 5, 2018 and on Sept 3rd, stable since May 2019.", {"date": 3}, "stable."),
        ("Film dated 3/14.", {"date": 1}, "Film."),
        ("MRN: 00123456. Edema.", {"number": 1}, "Edema."),
        ("radiograph of a woman: edema. Exam 12345.", {"number": 1}, "radiograph of a woman: edema."),
        ("Accession number 99-1234, call 555-123-4567, SSN 123-45-6789, A1234567.", {"number": 4}, "call, SSN."),
    ],
)
def test_markers_are_found_counted_and_taken_out(text: str, counts: dict[str, int], scrubbed: str) -> None:
    assert count_markers(text) == counts
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "Nodule of 1.5 x 2.5 cm at T12, 3/4 of the lung, L1-2.",
        "1. Edema. 2. No effusion.",
        "57-year-old woman with 2 films, exam of 3 views, case 12",
        "tip 4.5 cm above the carina, may have moved; 10-15 degrees; 30,000 feet",
        "chest X-ray, AP, X-ray of 2019",
        "philosophy, redacted",
    ],
)
def test_measures_and_counts_stay(text: str) -> None:
    assert find_markers(text) == []
    assert scrub(text) == text


@given(st.text(alphabet=" _.[]*()/-0123456789abMarchExam,;:\n", max_size=60))
def test_scrubbed_text_has_one_line_and_words_of_the_text_only(text: str) -> None:
    scrubbed = scrub(text)
    assert scrubbed == " ".join(scrubbed.split())
    assert len(scrubbed) <= len(text)
    spans = [(marked.start, marked.end) for marked in find_markers(text)]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
