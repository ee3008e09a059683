"""The gates of a data set: what is found in its rows and pictures, and which films it loses for it.

Everything is decided on columns, a few bytes a film. k counts patients, not rows: the number of patients whose films have a prompt.
A gate that drops or generalises says so for each film; the findings are listed with the data set.

Shape suffixes: N films, P patients, M pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from services.trainer.dataset_spec import DatasetSpec
from services.trainer.film_pictures import FilmPictures
from services.trainer.film_rows import MARKERS, FilmColumns
from shared.errors import DatasetError
from shared.imaging.burned_in import is_examined
from shared.imaging.splits import draw

LISTED: Final = 20  # films of a finding that the manifest names; all are in the list that is committed with the data set
ANONYMITY_BOUNDS: Final = (1, 5, 10)

Outcome = Literal["reported", "dropped", "generalised"]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """Films that a gate found, what became of them, and the earlier films that they equal, if that is why."""

    gate: str
    outcome: Outcome
    films: Positions
    earlier: Positions | None = None


@dataclass
class Examination:
    """What is known so far: films still kept, films whose prompt gives the decade of the age, and all findings."""

    columns: FilmColumns
    kept: NDArray[np.bool_]
    coarse: NDArray[np.bool_]
    findings: list[Finding] = field(default_factory=list)
    results: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    linked: list[NDArray[np.int64]] = field(default_factory=list)
    """Pairs of films, 2×M, that show the same picture."""

    def positions(self) -> Positions:
        """The films that are kept."""
        return np.flatnonzero(self.kept)

    def prompts(self) -> NDArray[np.int64]:
        """A code for every film's prompt, equal for prompts that differ in case and punctuation only."""
        return np.where(self.coarse, self.columns.coarse_prompt, self.columns.prompt)

    def judge(self, gate: str, action: str, films: Positions, what: str, earlier: Positions | None = None, **figures: JsonValue) -> None:
        """Act on films that a gate found: tell, leave out, or refuse the data set."""
        if action == "refuse" and len(films):
            raise DatasetError(f"{len(films)} films {what}; the data set is refused by its gate{self._where(films)}", field=f"gates.{gate}")
        dropped = action == "drop"
        if dropped:
            self.kept[films] = False
        if len(films):
            self.findings.append(Finding(gate, "dropped" if dropped else "reported", films, earlier))
        self.results[gate] = {
            "action": action,
            "films": len(films),
            "patients": len(np.unique(self.columns.patient[films])),
            "dropped": len(films) if dropped else 0,
            "first_lines": self.lines(films),
            **figures,
        }

    def lines(self, films: Positions) -> list[JsonValue]:
        """Where the first of these films stand in the source's table; none where the source has no table."""
        return [int(line) for line in self.columns.line[films[:LISTED]] if line > 0]

    def _where(self, films: Positions) -> str:
        lines = self.lines(films)
        return f" (line {', '.join(map(str, lines))}{', …' if len(films) > len(lines) else ''})" if lines else ""


# ---------------------------------------------------------------- rows


def examine_rows(columns: FilmColumns, spec: DatasetSpec, *, token_limit: int | None) -> Examination:
    """Judge what needs no picture; films without words for the prompt's template are left out in any case."""
    examination = Examination(columns, columns.described.copy(), np.zeros(len(columns), dtype=np.bool_))
    wordless = np.flatnonzero(~columns.described)
    if len(wordless) == len(columns):
        raise DatasetError(
            f"no film has {_article(spec.prompt.template)}; name its table or choose another prompt template", field="prompt.template"
        )
    if len(wordless):
        examination.judge("words", "drop", wordless, "have no words")
    gates = spec.gates
    counts: dict[str, JsonValue] = {kind: int(columns.markers_NK[:, place].sum()) for place, kind in enumerate(MARKERS)}
    found = np.flatnonzero(examination.kept & columns.markers_NK.any(1))
    examination.judge(
        "deidentification",
        gates.deidentification.action,
        np.flatnonzero(examination.kept & columns.marked),
        "have de-identification marks, dates or record numbers in their prompts",
        markers=counts,
        scrubbed=len(found) if spec.prompt.scrub else 0,
    )
    too_long = examination.kept & (columns.tokens > (token_limit or np.iinfo(np.int32).max))
    examination.judge(
        "prompt_length",
        gates.prompt_length.action,
        np.flatnonzero(too_long),
        f"have prompts of more than {token_limit} tokens",
        limit=token_limit,
        longest=int(columns.tokens.max()) if token_limit is not None else None,
    )
    if gates.k_anonymity.action == "refuse" and not _pictures_drop(spec):
        examine_anonymity(examination, spec)  # nothing later can change it, and pictures need not be decoded to refuse
    _require_films(examination)
    return examination


def examine_anonymity(examination: Examination, spec: DatasetSpec) -> None:
    """Judge prompts of few patients, among the films that are kept."""
    gate = spec.gates.k_anonymity
    rare = _rare(examination, gate.k)
    what = f"have prompts of fewer than {gate.k} patients"
    if gate.action != "generalise":
        examination.judge("k_anonymity", gate.action, rare, what, k=gate.k)
        _require_films(examination)
        return
    changed = rare[examination.columns.coarse_prompt[rare] != examination.columns.prompt[rare]]
    examination.coarse[changed] = True
    if len(changed):
        examination.findings.append(Finding("k_anonymity", "generalised", changed))
    examination.judge("k_anonymity", gate.action, _rare(examination, gate.k), what, k=gate.k, generalised=len(changed))


def anonymity_table(examination: Examination) -> dict[str, int]:
    """How many prompts differ, and how many films and patients have a prompt of one patient only, of fewer than five, of fewer than ten."""
    films = examination.positions()
    sharing = _patients_sharing(examination)[films]
    patients = examination.columns.patient[films]
    table = {"distinct": len(np.unique(examination.prompts()[films])), "rows": len(films), "patients": len(np.unique(patients))}
    for bound in ANONYMITY_BOUNDS:
        few = sharing < max(bound, 2)
        table |= {f"rows_k{bound}": int(few.sum()), f"patients_k{bound}": len(np.unique(patients[few]))}
    return table


# ---------------------------------------------------------------- pictures


def examine_pictures(examination: Examination, pictures: FilmPictures, spec: DatasetSpec, on_search: Callable[[], None]) -> None:
    """Judge what is seen in the pictures of the films that were kept until now, and cap the films of each patient."""
    admitted = examination.positions()
    found = pictures.columns()
    written = examination.columns.burned_in.copy()
    tagged = int(written[admitted].sum())
    written[admitted] |= found.writing
    examination.judge(
        "burned_in",
        spec.gates.burned_in.action,
        np.flatnonzero(examination.kept & written),
        "have writing in the picture",
        tagged=tagged,
        examined=is_examined(spec.image_size),
    )
    digests = np.ascontiguousarray(found.sha256_NS).view(f"V{found.sha256_NS.shape[1]}").ravel()
    first = _judge_equal(examination, admitted, digests, spec.gates.duplicates.action)
    on_search()
    alone = first & examination.kept[admitted]
    earlier, later = pictures.alike(np.flatnonzero(alone))
    _judge_alike(examination, admitted[earlier], admitted[later], spec.gates.near_duplicates.action)
    if spec.max_films_per_patient is not None:
        _cap(examination, admitted, found.sha256_NS, spec.max_films_per_patient, spec.seed)
    _require_films(examination)


def patients_together(examination: Examination) -> NDArray[np.int32]:
    """For every patient the code of a group: patients whose kept films show the same pictures must not be parted by a split."""
    count = len(examination.columns.patients)
    films = np.concatenate(examination.linked, axis=1)
    left, right = examination.columns.patient[films[:, examination.kept[films].all(0)]]
    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    groups: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return groups


def _judge_equal(examination: Examination, admitted: Positions, digests: NDArray[np.void], action: str) -> NDArray[np.bool_]:
    """Judge films with the pixels of an earlier film; says which of the admitted films are the first of theirs."""
    kept = np.flatnonzero(examination.kept[admitted])
    _, firsts, which = np.unique(digests[kept], return_index=True, return_inverse=True)
    first_of = admitted[kept[firsts[which]]]
    later = first_of < admitted[kept]
    films, earlier = admitted[kept][later], first_of[later]
    _judge_copies(examination, "duplicates", action, films, earlier, np.stack([earlier, films]), "have the pixels of an earlier film")
    is_first = np.zeros(len(admitted), dtype=np.bool_)
    is_first[kept[~later]] = True
    return is_first


def _judge_alike(examination: Examination, earlier: Positions, later: Positions, action: str) -> None:
    """Judge films that look like an earlier film; where they are left out, only those that look like one that stays."""
    leader: dict[int, int] = {}
    for first, second in zip(earlier.tolist(), later.tolist(), strict=True):
        if action != "drop" or first not in leader:
            leader.setdefault(second, first)
    films, firsts = (np.array(list(side), dtype=np.int64) for side in (leader.keys(), leader.values()))
    what = "look like an earlier film"
    _judge_copies(examination, "near_duplicates", action, films, firsts, np.stack([earlier, later]), what)


def _judge_copies(
    examination: Examination, gate: str, action: str, films: Positions, earlier: Positions, pairs: NDArray[np.int64], what: str
) -> None:
    """Judge copies, apart for copies within one patient and across patients."""
    patient = examination.columns.patient
    same = patient[pairs[0]] == patient[pairs[1]]
    examination.linked.append(pairs[:, ~same])
    within, across = (len(np.unique(pairs[1][chosen])) for chosen in (same, ~same))
    examination.judge(gate, action, films, what, earlier, within_patient=within, across_patients=across)


def _cap(examination: Examination, admitted: Positions, sha256_NS: NDArray[np.uint8], limit: int, seed: int) -> None:
    """Leave out the films of a patient beyond the limit, drawn by lot among them."""
    patient = examination.columns.patient
    kept = np.flatnonzero(examination.kept[admitted])
    counts = np.bincount(patient[admitted[kept]], minlength=len(examination.columns.patients))
    crowded = kept[counts[patient[admitted[kept]]] > limit]
    ordered = sorted(
        crowded.tolist(), key=lambda place: (int(patient[admitted[place]]), draw(seed, "cap", sha256_NS[place].tobytes().hex()))
    )
    taken: dict[int, int] = {}
    over = []
    for place in ordered:
        owner = int(patient[admitted[place]])
        taken[owner] = taken.get(owner, 0) + 1
        if taken[owner] > limit:
            over.append(int(admitted[place]))
    examination.judge("max_films_per_patient", "drop", np.array(sorted(over), dtype=np.int64), "are beyond the cap", limit=limit)


# ---------------------------------------------------------------- counting


def _patients_sharing(examination: Examination) -> NDArray[np.int64]:
    """For every film, how many patients have its prompt among the films that are kept."""
    films, prompts = examination.positions(), examination.prompts()
    pairs = np.unique(np.stack([prompts[films], examination.columns.patient[films].astype(np.int64)]), axis=1)
    return np.bincount(pairs[0], minlength=int(prompts.max()) + 1)[prompts]


def _rare(examination: Examination, k: int) -> Positions:
    return np.flatnonzero(examination.kept & (_patients_sharing(examination) < k))


def _pictures_drop(spec: DatasetSpec) -> bool:
    """Whether films may be left out once their pictures are known."""
    actions = (spec.gates.burned_in.action, spec.gates.duplicates.action, spec.gates.near_duplicates.action)
    return "drop" in actions or spec.max_films_per_patient is not None


def _require_films(examination: Examination) -> None:
    if not examination.kept.any():
        raise DatasetError("no film is left: the gates drop all of them", field="gates")


def _article(template: str) -> str:
    return f"an {template}" if template == "impression" else f"a {template}"
