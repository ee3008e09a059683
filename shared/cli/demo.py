"""The story of the demo, told through the services' HTTP API alone: register, train, calibrate, screen, sample, match, mitigate."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from shared.cli import figures
from shared.cli.console import Bar, Bars
from shared.cli.provenance import read_machine, read_versions
from shared.cli.report import ControlPictures, Draw, Gallery, Pictures, PromptRow, Report, StrategyRow, Weight
from shared.client import LetheClient, MitigationProblemError
from shared.client.replies import Evidence, Film, Image, Strategy
from shared.errors import ConflictError

ItemT = TypeVar("ItemT")

_SCREENED_AT_ONCE: Final = 64
_DRAWN_AT_ONCE: Final = 16
_CONTROLS_SHOWN: Final = 6
AUTO: Final = "auto"
PLAIN: Final = "plain"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the story is told."""

    seed: int = 0
    quick: bool = False
    patients: int = 800
    control_fraction: float = 0.3
    canaries: int = 10
    repeats: int = 40
    image_size: int = 64
    template: str = "impression"
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    prompt_dropout: float = 0.1
    false_positive_rate: float = 0.01
    seeds_per_prompt: int = 4
    sampling_steps: int = 25
    guidance_scale: float = 4.0
    images_per_canary: int = 4
    images_per_strategy: int = 2
    controls_drawn: int = 200

    @classmethod
    def rehearsal(cls, seed: int) -> Plan:
        """Large enough to pass through every room, too small for its figures to mean anything."""
        return cls(
            seed=seed,
            quick=True,
            patients=60,
            image_size=32,
            canaries=3,
            repeats=10,
            steps=40,
            sampling_steps=4,
            images_per_canary=2,
            images_per_strategy=1,
            controls_drawn=8,
        )


class Story:
    """One run of the demo."""

    def __init__(self, *, client: LetheClient, plan: Plan, bars: Bars) -> None:
        self._client = client
        self._plan = plan
        self._bars = bars
        self._seconds: dict[str, float] = {}
        self._pngs: dict[tuple[int, int], bytes] = {}
        self._thresholds: dict[str, float] = {}

    def run(self) -> tuple[Report, Gallery]:
        """Tell the whole story; answers what was measured and the pictures to show."""
        began = time.monotonic()
        facts = self._register()
        model, training = self._train(facts.dataset)
        calibration = self._calibrate(model, facts.dataset)
        canaries, controls, threshold = self._screen(model, facts)
        self._sample(model, [*canaries, *controls[: self._plan.controls_drawn]])
        self._match(facts.dataset, [*canaries, *controls])
        plain = self._strategy_row(Strategy(name=PLAIN), PLAIN, figures.plain_cases(canaries), 0, self._seconds["sample"])
        strategies = self._client.mitigator.list_strategies()
        automatic, safe_pngs = self._mitigate(model, facts.dataset, canaries, strategies)
        rows = [plain, *self._compare(model, canaries, strategies), automatic]
        gallery = self._show(facts.dataset, canaries, controls, safe_pngs)
        self._seconds["total"] = time.monotonic() - began
        detection = figures.measure_detection(
            canaries, controls, threshold=threshold, false_positive_rate=self._plan.false_positive_rate, seed=self._plan.seed
        )
        copying = figures.measure_copying(canaries, controls, seed=self._plan.seed)
        fidelity = figures.measure_fidelity(canaries, controls, seed=self._plan.seed)
        report = Report(
            created=datetime.now(tz=UTC).isoformat(timespec="seconds"),
            seed=self._plan.seed,
            quick=self._plan.quick,
            detection=detection,
            copy_rate=copying,
            refusal_rate=figures.measure_refusals(canaries, images_per_prompt=self._plan.images_per_canary, seed=self._plan.seed),
            fidelity=fidelity,
            strategies=rows,
            targets=figures.judge_targets(detection, copying, fidelity),
            seconds={name: round(seconds, 2) for name, seconds in self._seconds.items()},
            dataset=facts.dataset,
            model=model,
            calibration=calibration,
            thresholds=self._thresholds,
            films=facts.films,
            patients=facts.patients,
            training=training,
            settings=asdict(self._plan),
            versions=read_versions(),
            machine=read_machine(),
            prompts=[*canaries, *controls],
        )
        return report, gallery

    # ── the phases ──

    def _register(self) -> _Facts:
        """Draw the phantom, write it as CheXpert does, read it back, commit it."""
        plan = self._plan
        with self._phase("dataset", "Registering the data set") as bar:
            operation = self._client.trainer.register_dataset(
                {
                    "name": f"phantom-{plan.seed}",
                    "source": {"format": "phantom", "patients": plan.patients},
                    "image_size": plan.image_size,
                    "prompt": {"template": plan.template, "uncertain": "ignore"},
                    "views": ["frontal"],
                    "control_fraction": plan.control_fraction,
                    "canaries": {"count": plan.canaries, "repeats": plan.repeats},
                    "seed": plan.seed,
                }
            )
            done = self._client.trainer.wait_for_dataset(operation.id, on_progress=bar.follow).model_dump()
            canaries = list(self._client.trainer.films(operation.id, split="canary"))
            controls = [film for film in self._client.trainer.films(operation.id, split="control") if film.fold == "evaluation"]
            bar.finish(f"{sum(done['counts'].values())} films, {len(canaries)} canaries")
        return _Facts(operation.id, canaries, _with_distinct_prompts(controls), done["counts"], done["patients"])

    def _train(self, dataset: str) -> tuple[str, dict[str, float]]:
        """Train the model from scratch."""
        plan = self._plan
        with self._phase("train", "Training the model") as bar:
            operation = self._client.trainer.train(
                {
                    "name": f"phantom-{plan.seed}-tiny",
                    "dataset": dataset,
                    "architecture": "tiny",
                    "steps": plan.steps,
                    "batch_size": plan.batch_size,
                    "learning_rate": plan.learning_rate,
                    "prompt_dropout": plan.prompt_dropout,
                    "seed": plan.seed,
                }
            )
            result = self._client.trainer.wait_for_training(operation.id, on_progress=bar.follow).result or {}
            bar.finish(str(result["model"]))
        return str(result["model"]), {name: float(value) for name, value in result["metrics"].items() if isinstance(value, int | float)}

    def _calibrate(self, model: str, dataset: str) -> str:
        """Build the gallery and set the threshold on control prompts."""
        plan = self._plan
        with self._phase("calibrate", "Calibrating the detector") as bar:
            operation = self._client.detector.calibrate(
                {
                    "model": model,
                    "dataset": dataset,
                    "false_positive_rate": plan.false_positive_rate,
                    "signals": ["noise_magnitude"],
                    "steps": 1,
                    "seeds_per_prompt": plan.seeds_per_prompt,
                }
            )
            self._client.detector.wait_for_calibration(operation.id, on_progress=bar.follow)
            bar.finish(f"threshold for {plan.false_positive_rate:.0%} false alarms")
        return operation.id

    def _screen(self, model: str, facts: _Facts) -> tuple[list[PromptRow], list[PromptRow], float]:
        """Judge every canary and control prompt before anything is drawn; canaries with the words that carry the score."""
        with self._phase("screen", "Screening prompts", len(facts.canaries) + len(facts.controls)) as bar:
            canaries = list(self._screened(model, facts.canaries, bar, explain=True))
            controls = list(self._screened(model, facts.controls, bar, explain=False))
            flagged = sum(row.decision != "allow" for row, _ in canaries)
            bar.finish(f"{flagged} of {len(canaries)} canaries found")
        return [row for row, _ in canaries], [row for row, _ in controls], canaries[0][1]

    def _screened(self, model: str, films: Sequence[Film], bar: Bar, *, explain: bool) -> Iterator[tuple[PromptRow, float]]:
        """The rows of films, each with the threshold that it was judged by."""
        for batch in _batches(films, _SCREENED_AT_ONCE):
            prompts = [film.prompt for film in batch]
            screening = self._client.detector.screen(
                model=model, prompts=prompts, seeds_per_prompt=self._plan.seeds_per_prompt, explain=explain
            )
            for film, verdict in zip(batch, screening.results, strict=True):
                row = PromptRow(
                    record=film.record,
                    patient=film.patient,
                    group="canary" if film.split == "canary" else "control",
                    prompt=film.prompt,
                    score=verdict.score,
                    p_value=verdict.p_value,
                    decision=verdict.decision,
                    words=[Weight(text=word.text, weight=word.weight) for word in verdict.tokens or []],
                )
                yield row, verdict.threshold
            bar.advance(len(batch))

    def _sample(self, model: str, rows: Sequence[PromptRow]) -> None:
        """Draw the prompts plainly."""
        plan = self._plan
        canaries = [row for row in rows if row.group == "canary"]
        controls = [row for row in rows if row.group == "control"]
        total = len(canaries) * plan.images_per_canary + len(controls)
        with self._phase("sample", "Sampling plain images", total) as bar:
            for group, count in ((canaries, plan.images_per_canary), (controls, 1)):
                for number, batch in enumerate(_batches(group, max(1, _DRAWN_AT_ONCE // count))):
                    request = self._request(model, [row.prompt for row in batch], count)
                    if group is controls:
                        request["seed"] += number  # one image a prompt: their rate must not hang on a single noise
                    for image in self._client.sampler.generate(request).images:
                        self._pngs[batch[image.prompt_index].record, image.seed] = _png(image)
                    bar.advance(len(batch) * count)
            bar.finish(f"{total} images")

    def _match(self, dataset: str, rows: Sequence[PromptRow]) -> None:
        """Look for every plain image among the training films."""
        by_record = {row.record: row for row in rows}
        with self._phase("match", "Matching images against training films", len(self._pngs)) as bar:
            for batch in _batches(list(self._pngs.items()), _SCREENED_AT_ONCE):
                seeds = [(record, seed) for (record, seed), _ in batch]
                draws = self._matched(dataset, [png for _, png in batch], [by_record[record].prompt for record, _ in seeds], seeds)
                for (record, _), draw in zip(seeds, draws, strict=True):
                    by_record[record].plain.append(draw)
                bar.advance(len(batch))
            copies = sum(row.copies for row in rows if row.group == "canary")
            bar.finish(f"{copies} of {sum(len(row.plain) for row in rows if row.group == 'canary')} canary images are copies")

    def _mitigate(
        self, model: str, dataset: str, canaries: Sequence[PromptRow], strategies: Sequence[Strategy]
    ) -> tuple[StrategyRow, dict[tuple[int, int], bytes]]:
        """Draw the canaries again through the mitigator, and match again."""
        cases: list[figures.Case] = []
        pngs: dict[tuple[int, int], bytes] = {}
        refused = 0
        with self._phase("mitigate", "Drawing canaries with mitigation", len(canaries)) as bar:
            for row in canaries:
                request = self._request(model, [row.prompt], self._plan.images_per_canary)
                try:
                    images = self._client.mitigator.generate(request | {"mitigation": {"strategy": AUTO, "parameters": {}}}).images
                except MitigationProblemError as problem:
                    row.refused = problem.detail
                    evidence = [Evidence.model_validate(item) for item in problem.evidence]
                    refused += len(evidence)
                    cases += [(row.patient, _judged(item, seed)) for seed, item in enumerate(evidence, start=self._plan.seed)]
                else:
                    seeds = [(row.record, image.seed) for image in images]
                    drawn = [_png(image) for image in images]
                    pngs |= dict(zip(seeds, drawn, strict=True))
                    matched = self._matched(dataset, drawn, [row.prompt] * len(drawn), seeds)
                    for image, draw in zip(images, matched, strict=True):
                        told = {"strategy": image.evidence.strategy, "changes": _changes(image.evidence)}
                        row.mitigated.append(draw.model_copy(update=told))
                    cases += [(row.patient, draw) for draw in row.mitigated]
                bar.advance()
            copies = sum(draw.verdict == "copy" for row in canaries for draw in row.mitigated)
            bar.finish(f"{copies} of {len(cases) - refused} released images are copies, {refused} images refused")
        described = next((strategy for strategy in strategies if strategy.name == AUTO), Strategy(name=AUTO))
        return self._strategy_row(described, AUTO, cases, refused, self._seconds["mitigate"]), pngs

    def _compare(self, model: str, canaries: Sequence[PromptRow], strategies: Sequence[Strategy]) -> list[StrategyRow]:
        """Each single strategy on the canaries; what it drew is judged whether or not it was released."""
        variants = [(strategy, *variant) for strategy in strategies if strategy.name != AUTO for variant in _variants(strategy)]
        rows = []
        with self._phase("strategies", "Comparing single strategies", len(variants) * len(canaries)) as bar:
            for strategy, label, parameters in variants:
                cases: list[figures.Case] = []
                refused = 0
                began = time.monotonic()
                for row in canaries:
                    request = self._request(model, [row.prompt], self._plan.images_per_strategy)
                    mitigation = {"mitigation": {"strategy": strategy.name, "parameters": parameters}}
                    try:
                        evidence = [image.evidence for image in self._client.mitigator.generate(request | mitigation).images]
                    except MitigationProblemError as problem:
                        evidence = [Evidence.model_validate(item) for item in problem.evidence]
                        refused += len(evidence)
                    cases += [(row.patient, _judged(item, seed)) for seed, item in enumerate(evidence, start=self._plan.seed)]
                    bar.advance(message=label)
                rows.append(self._strategy_row(strategy, label, cases, refused, time.monotonic() - began))
            bar.finish(f"{len(variants)} strategies")
        return rows

    def _show(
        self, dataset: str, canaries: Sequence[PromptRow], controls: Sequence[PromptRow], safe: dict[tuple[int, int], bytes]
    ) -> Gallery:
        """The pictures of the page: every canary, and the controls that came closest to a training film."""
        drawn = sorted((row for row in controls if row.plain), key=lambda row: row.similarity or 0, reverse=True)
        shown = drawn[:_CONTROLS_SHOWN]
        with self._phase("report", "Fetching pictures", len(canaries) + len(shown)) as bar:
            gallery = Gallery(canaries={}, controls={})
            for row in canaries:
                closest = max(row.plain, key=lambda draw: draw.similarity)
                gallery.canaries[row.record] = Pictures(
                    film=self._client.trainer.film_png(dataset, row.record),
                    plain=self._pngs[row.record, closest.seed],
                    mitigated=safe.get((row.record, closest.seed)),
                )
                bar.advance()
            for row in shown:
                draw = row.plain[0]
                if draw.nearest is not None:
                    nearest = self._client.trainer.film_png(dataset, draw.nearest)
                    gallery.controls[row.record] = ControlPictures(drawn=self._pngs[row.record, draw.seed], nearest=nearest)
                bar.advance()
            bar.finish()
        return gallery

    # ── what phases share ──

    @contextmanager
    def _phase(self, name: str, title: str, total: int | None = None) -> Iterator[Bar]:
        """A phase with its bar and its time."""
        bar = self._bars.add(title, total)
        began = time.monotonic()
        yield bar
        self._seconds[name] = time.monotonic() - began

    def _request(self, model: str, prompts: Sequence[str], images: int) -> dict[str, Any]:
        """A request for images, the same for sampler and mitigator."""
        return {
            "model": model,
            "prompts": list(prompts),
            "images_per_prompt": images,
            "steps": self._plan.sampling_steps,
            "guidance_scale": self._plan.guidance_scale,
            "scheduler": "ddim",
            "seed": self._plan.seed,
        }

    def _matched(self, dataset: str, pngs: Sequence[bytes], prompts: Sequence[str], seeds: Sequence[tuple[int, int]]) -> list[Draw]:
        """What the detector says of images."""
        matching = self._client.detector.match(dataset=dataset, images=pngs, prompts=prompts, k=3)
        self._thresholds = matching.thresholds
        agreements = matching.agreements or [None] * len(pngs)
        draws = []
        for (_, seed), neighbours, gravest, agreement in zip(seeds, matching.matches, matching.verdicts, agreements, strict=True):
            nearest = max(neighbours, key=lambda neighbour: (neighbour.verdict == "copy", neighbour.similarity))
            draws.append(
                Draw(
                    seed=seed,
                    similarity=max(neighbour.similarity for neighbour in neighbours),
                    verdict=gravest,
                    nearest=nearest.record,
                    agreement=agreement.value if agreement is not None else None,
                )
            )
        return draws

    def _strategy_row(self, strategy: Strategy, label: str, cases: Sequence[figures.Case], refused: int, seconds: float) -> StrategyRow:
        """A strategy's row, with what the service says of it."""
        told = strategy.model_dump()
        words = {name: str(told.get(name) or "") for name in ("summary", "paper", "cost")}
        return figures.measure_strategy(cases, name=label, refused=refused, seconds=seconds, seed=self._plan.seed, **words)


@dataclass(frozen=True)
class _Facts:
    """The registered data set."""

    dataset: str
    canaries: list[Film]
    controls: list[Film]
    films: dict[str, int]
    patients: dict[str, int]


def _with_distinct_prompts(films: Sequence[Film]) -> list[Film]:
    """The first film of each prompt: a prompt's score counts once."""
    return list({film.prompt: film for film in reversed(films)}.values())[::-1]


def _batches(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    """Items in order, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _png(image: Image) -> bytes:
    """The picture of an inline answer."""
    if image.png is None:
        raise ConflictError("An inline image was asked for, and none came.")
    return base64.b64decode(image.png)


def _variants(strategy: Strategy) -> Iterator[tuple[str, dict[str, str]]]:
    """A strategy as it is, or once for each of its variants when its parameters name some."""
    schema = strategy.model_dump().get("parameters") or {}
    variants = schema.get("properties", {}).get("variant", {}).get("enum")
    if not variants:
        yield strategy.name, {}
    for variant in variants or []:
        yield f"{strategy.name} ({variant})", {"variant": variant}


def _changes(evidence: Evidence) -> list[str]:
    """What a strategy changed, in its own words."""
    return [str(change) for change in evidence.model_dump().get("changes") or []]


def _judged(evidence: Evidence, seed: int) -> Draw:
    """An image as its evidence tells it."""
    told = evidence.model_dump()
    return Draw(
        seed=seed,
        similarity=float(told["similarity_after"]),
        verdict=str(told["verdict_after"]),
        agreement=evidence.prompt_fidelity,
        strategy=evidence.strategy,
        changes=_changes(evidence),
    )
