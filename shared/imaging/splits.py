"""Which films are trained on, held out, or repeated: splits by patient and the choice of canaries.

Every choice orders patients by a keyed digest, so it depends on the seed and on names, never on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.errors import DatasetError
from shared.imaging.clauses import NO_FINDING
from shared.imaging.prompts import AskedItems, findings_of, normalise_prompt, parse_prompt

Split = Literal["train", "control", "canary"]
Fold = Literal["calibration", "evaluation", ""]

SPLITS: Final[tuple[Split, ...]] = ("train", "control", "canary")
FOLDS: Final[tuple[Fold, ...]] = ("", "calibration", "evaluation")

FRONTAL_VIEWS: Final = frozenset({"AP", "PA", "frontal"})


@dataclass(frozen=True)
class Candidate:
    """A film as the choice sees it; `key` names it for good (its path in the source)."""

    key: str
    patient: str
    view: str
    prompt: str


@dataclass(frozen=True)
class Placement:
    """Where a film goes; `fold` is empty outside the control split."""

    split: Split
    fold: Fold
    repeats: int


def place_films(candidates: Sequence[Candidate], *, control_fraction: float, canaries: int, repeats: int, seed: int) -> list[Placement]:
    """Place every film: control patients first, canaries among the training films that remain."""
    folds = split_patients({candidate.patient for candidate in candidates}, control_fraction=control_fraction, seed=seed)
    chosen = choose_canaries(candidates, excluded=frozenset(folds), count=canaries, seed=seed)
    ordinary = [_ordinary(folds.get(candidate.patient, "")) for candidate in candidates]
    return [Placement("canary", "", repeats) if i in chosen else placement for i, placement in enumerate(ordinary)]


def split_patients(patients: Iterable[str], *, control_fraction: float, seed: int) -> dict[str, Fold]:
    """Return the control patients with their folds; at least one patient is left to train on, and both folds have one if they can."""
    ordered = sorted(set(patients), key=lambda patient: draw(seed, "control", patient))
    wanted = round(len(ordered) * control_fraction)
    if control_fraction > 0:
        wanted = max(wanted, 2)
    held_out = ordered[: max(0, min(wanted, len(ordered) - 1))]
    calibration = (len(held_out) + 1) // 2
    return {patient: "calibration" if i < calibration else "evaluation" for i, patient in enumerate(held_out)}


def choose_canaries(candidates: Sequence[Candidate], *, excluded: frozenset[str], count: int, seed: int) -> set[int]:
    """Return the positions of `count` films of different training patients whose prompt no other film has.

    Frontal films that show something come first: an image that is repeated should be one that a prompt can ask for. Among them come
    first those that show what no other film shows: where others ask for the same findings, a model that repeats the canary for
    them would copy it under prompts of the control arm, which could then no longer tell a false alarm from a true one.
    """
    uses = Counter(normalise_prompt(candidate.prompt) for candidate in candidates)
    unique = [
        i for i, candidate in enumerate(candidates) if candidate.patient not in excluded and uses[normalise_prompt(candidate.prompt)] == 1
    ]
    patients = {candidates[i].patient for i in unique}
    if len(patients) < count:
        raise DatasetError(
            f"{count} canaries asked for, but only {len(patients)} training patients have a film with a unique prompt; "
            "ask for fewer canaries or for more distinctive prompts",
            field="canaries.count",
        )
    shown = [_findings_shown(candidate) for candidate in candidates]
    sharing = Counter(shown)
    ranked = sorted(unique, key=lambda i: (_plainness(candidates[i]), sharing[shown[i]] > 1, draw(seed, "canary", candidates[i].key)))
    chosen: dict[str, int] = {}
    for i in ranked:
        if len(chosen) == count:
            break
        chosen.setdefault(candidates[i].patient, i)
    return set(chosen.values())


def draw(seed: int, purpose: str, name: str) -> bytes:
    """A lot for a name: equal for equal seeds and purposes, unlike any other."""
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode()).digest()


def _plainness(candidate: Candidate) -> int:
    """0 for a frontal film with a finding, more for others."""
    shows = bool(findings_of(candidate.prompt) - {NO_FINDING})
    return (candidate.view not in FRONTAL_VIEWS) * 2 + (not shows)


def _findings_shown(candidate: Candidate) -> AskedItems:
    """What the film's prompt asks to see, whatever the view."""
    return frozenset(item for item in parse_prompt(candidate.prompt) if item[0] == "finding")


def _ordinary(fold: Fold) -> Placement:
    return Placement("control" if fold else "train", fold, 1)
