"""What a search is told; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator

from services.trainer.caption_rules import CaptionRule, require_sound_order
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.filter_rules import FilterRule
from services.trainer.parameters.kinds import MAX_BLOCKS, MAX_RANK, AnyParameters, FullParameters, ModuleName
from services.trainer.training_spec import DataParallel, TrainingSpec, Validation
from shared.http.bodies import Seed, StrictSpec
from shared.memorization.rewards.effort import Effort
from shared.memorization.rewards.names import BY_BALLS, NEIGHBOURS

SearchedKind = Literal["svdiff", "diffit", "attention", "lora"]
KINDS: Final[tuple[SearchedKind, ...]] = get_args(SearchedKind)
RewardName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Rung = Annotated[float, Field(gt=0, lt=1)]

_SIGNIFICANT: Final = 6  # digits of a rate: it stays itself through JSON and back


class Range(StrictSpec):
    """The learning rates that are tried: a logarithmic grid, so that two trials can be the same."""

    low: float = Field(gt=0, le=1, description="The lowest rate.")
    high: float = Field(gt=0, le=1, description="The highest rate.")
    points: int = Field(default=9, ge=1, le=101, description="How many rates there are, both ends among them.")

    @field_validator("high")
    @classmethod
    def _require_order(cls, high: float, info: ValidationInfo) -> float:
        """A range goes up."""
        if (low := info.data.get("low")) is not None and high < low:
            raise ValueError("high lies below low")
        return high

    @field_validator("points")
    @classmethod
    def _require_both_ends(cls, points: int, info: ValidationInfo) -> int:
        """One point has no two ends."""
        if points == 1 and info.data.get("low") != info.data.get("high"):
            raise ValueError("one point cannot be low and high; take two or more, or the same rate for both")
        return points

    @property
    def rates(self) -> list[float]:
        """All of them, rising."""
        low, high, last = math.log(self.low), math.log(self.high), max(1, self.points - 1)
        return sorted({float(f"{math.exp(low + (high - low) * point / last):.{_SIGNIFICANT}g}") for point in range(self.points)})


_BY_KIND: Final = TypeAdapter(dict[SearchedKind, Range])
DEFAULT_RATES: Final = Range(low=1e-5, high=1e-3)  # the published search's


class Vary(StrictSpec):
    """What a search chooses too, beside parameters and rate; null stays as `training` says."""

    batch_filter: list[FilterRule | None] | None = Field(
        default=None, min_length=1, max_length=16, description="Batch filters of which each trial takes one; null in the list is none."
    )
    captions: list[list[CaptionRule]] | None = Field(
        default=None, min_length=1, max_length=16, description="Lists of caption rules of which each trial takes one; [] changes none."
    )

    @field_validator("captions")
    @classmethod
    def _require_sound_orders(cls, captions: list[list[CaptionRule]] | None) -> list[list[CaptionRule]] | None:
        """Each is what a training could be told."""
        for rules in captions or ():
            require_sound_order(rules)
        return captions

    @field_validator("batch_filter", "captions")
    @classmethod
    def _require_different_ones(cls, choices: list[object] | None) -> list[object] | None:
        """The same choice twice would be tried twice."""
        if choices is not None and any(choice in choices[:place] for place, choice in enumerate(choices)):
            raise ValueError("each choice may stand once")
        return choices


class Constraint(StrictSpec):
    """A bound that a point must keep to be on the front."""

    reward: RewardName = Field(description="Which figure; it need not be an objective.")
    at_most: float | None = Field(default=None, description="The highest value that is let in.")
    at_least: float | None = Field(default=None, validate_default=True, description="The lowest value that is let in; give one of both.")

    @field_validator("at_least")
    @classmethod
    def _require_one_bound(cls, at_least: float | None, info: ValidationInfo) -> float | None:
        """One bound each: two constraints make a band."""
        if "at_most" in info.data and (at_least is None) == (info.data["at_most"] is None):
            raise ValueError("give at_most or at_least, one of them")
        return at_least


class Pruning(StrictSpec):
    """Trials that look poor on their way are ended there, so that others can be tried (successive halving, by non-domination)."""

    rungs: list[Rung] = Field(
        default=[0.1, 0.3], min_length=1, max_length=8, description="Shares of the steps after which a trial is measured."
    )
    keep: float = Field(default=0.5, gt=0, le=1, description="Share of the trials measured at a rung that go on from it.")
    startup: int = Field(default=4, ge=1, le=1000, description="Trials that a rung must have seen before one is ended there.")

    @field_validator("rungs")
    @classmethod
    def _require_rising(cls, rungs: list[float]) -> list[float]:
        """A trial passes them in order."""
        if rungs != sorted(set(rungs)):
            raise ValueError("rungs must rise")
        return rungs


class Knee(StrictSpec):
    """The point nearest to the best of every objective, each scaled to the front's span."""

    rule: Literal["knee"] = "knee"


class QualityWithin(StrictSpec):
    """The point that memorizes least, of those whose quality is near the best."""

    rule: Literal["quality_within"]
    share: float = Field(default=0.05, ge=0, le=10, description="How far from the front's best quality, as a share of it.")


Recommendation = Annotated[Knee | QualityWithin, Field(discriminator="rule")]


class SearchTraining(TrainingSpec):
    """What all trials have in common: a training without what the search chooses, and in one process."""

    base: str = Field(min_length=1, max_length=64, description="The model that every trial goes on from.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Chosen by the search: leave it out.")
    text_encoder: Literal["frozen"] = Field(default="frozen", description="What is searched is of the denoiser alone.")
    parameters: AnyParameters = Field(default=FullParameters(), description="Chosen by the search: leave them out.")

    found_by: None = Field(default=None, description="Filled in where the search is applied; leave it out.")

    @field_validator("learning_rate", "parameters")
    @classmethod
    def _require_what_is_searched_open(cls, value: object, info: ValidationInfo) -> object:
        """Two answers to one question could differ."""
        if value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("the search chooses it; leave it out, and say beside training what it chooses from")
        return value

    @field_validator("data_parallel")
    @classmethod
    def _require_one_process(cls, parallel: DataParallel) -> DataParallel:
        """Trials share the machine already."""
        if parallel.ranks > 1:
            raise ValueError("trials learn side by side, each in one process; set data_parallel.ranks to 1")
        return parallel

    @field_validator("validation")
    @classmethod
    def _require_no_strips(cls, validation: Validation | None) -> Validation | None:
        """A trial is looked at by its rewards."""
        if validation is not None:
            raise ValueError("trials are measured by the objectives; leave validation out, and draw strips when a point is applied")
        return validation

    @field_validator("ensemble")
    @classmethod
    def _require_one_model(cls, rule: EnsembleRule | None) -> EnsembleRule | None:
        """An ensemble is several jobs, and so is a search."""
        if rule is not None:
            raise ValueError("a trial trains one model; leave ensemble out, and apply the point found with one")
        return rule


class SearchSpec(StrictSpec):
    """Which trainings are tried, by what they are judged, and when enough are."""

    training: SearchTraining = Field(description="The training that all trials have in common; `steps` are those of one trial.")
    space: Literal["svdiff", "diffit", "attention", "lora", "auto"] = Field(
        description="Which kind of parameters learns; of attention modules each takes part or not. auto chooses the kind too."
    )
    learning_rate: Range | Annotated[dict[SearchedKind, Range], Field(min_length=1)] | None = Field(
        default=None, description="The rates that are tried, for all kinds or by kind; null is 1e-5 to 1e-3."
    )
    ranks: list[Rank] = Field(
        default=[2, 4, 8],
        min_length=1,
        max_length=16,
        description="For lora: each attention module has one of these ranks, or takes no part.",
    )
    always: list[ModuleName] | None = Field(
        default=None,
        max_length=MAX_BLOCKS,
        description="Attention modules that take part in every trial. null is the published rule: for svdiff and diffit the third of each "
        "up block, for the others none.",
    )
    vary: Vary | None = Field(default=None, description="What the search chooses instead of `training`; null is parameters and rate alone.")
    objectives: list[RewardName] = Field(
        default=["memorization", "fid"], min_length=1, max_length=4, description="Names of rewards, each with its direction."
    )
    constraints: list[Constraint] = Field(default=[], max_length=8, description="Bounds that every point of the front keeps.")
    trials: int = Field(default=20, ge=1, le=1000, description="How many trainings are begun at most.")
    parallel: int = Field(default=1, ge=1, le=64, description="Trials that learn at once, each in a process of its own.")
    sampler: Literal["tpe", "nsga2", "random"] = Field(default="tpe", description="How the next trial is chosen from those before.")
    warm_starts: bool = Field(
        default=True, description="Try first: all modules, none, each resolution alone, and as many as the published search kept."
    )
    pruning: Pruning | None = Field(default=Pruning(), description="When a trial is ended early; null ends none.")
    evaluation: Effort = Field(default=Effort(), description="How thoroughly every trial is measured.")
    recommend: Recommendation = Field(default=Knee(), description="Which point of the front is the recommended one.")
    seed: Seed = 0

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _read_rates(cls, told: object) -> object:
        """As one of both, so that a slip is named where it stands; a union names all that it might have been."""
        if told is None or isinstance(told, Range):
            return told
        return _BY_KIND.validate_python(told) if isinstance(told, dict) and told and told.keys() <= {*KINDS} else Range.model_validate(told)

    @field_validator("learning_rate")
    @classmethod
    def _require_kinds_of_the_space(
        cls, rates: Range | dict[SearchedKind, Range] | None, info: ValidationInfo
    ) -> Range | dict[SearchedKind, Range] | None:
        """Rates of a kind that is never tried are a slip."""
        space = info.data.get("space")
        if isinstance(rates, dict) and space not in {None, "auto"} and set(rates) != {space}:
            raise ValueError(f"the space has no other kind than {space}")
        return rates

    @field_validator("ranks")
    @classmethod
    def _require_ranks_of_lora(cls, ranks: list[int], info: ValidationInfo) -> list[int]:
        """Ranks that nothing has are a slip."""
        if ranks != sorted(set(ranks)):
            raise ValueError("ranks must rise")
        if ranks != cls.model_fields["ranks"].default and info.data.get("space") not in {None, "lora", "auto"}:
            raise ValueError("only lora has ranks; leave them out, or take the space lora or auto")
        return ranks

    @field_validator("always", "objectives")
    @classmethod
    def _require_different_ones(cls, names: list[str] | None) -> list[str] | None:
        """Each once."""
        if names is not None and len(set(names)) < len(names):
            raise ValueError("each name may stand once")
        return names

    @field_validator("vary")
    @classmethod
    def _require_what_varies_open(cls, vary: Vary | None, info: ValidationInfo) -> Vary | None:
        """Two answers to one question could differ."""
        training: SearchTraining | None = info.data.get("training")
        if vary is None or training is None:
            return vary
        if vary.batch_filter is not None and training.batch_filter is not None:
            raise ValueError("training fixes the batch filter that vary.batch_filter would choose; leave one of them out")
        if vary.captions is not None and training.captions:
            raise ValueError("training fixes the captions that vary.captions would choose; leave one of them out")
        return vary

    @field_validator("evaluation")
    @classmethod
    def _require_enough_for_balls(cls, evaluation: Effort, info: ValidationInfo) -> Effort:
        """Else every trial would train to its first rung to find that nothing can be told of its images."""
        asked = {*info.data.get("objectives", ()), *(constraint.reward for constraint in info.data.get("constraints", ()))}
        by_balls = [name for name in BY_BALLS if name in asked]
        if by_balls and evaluation.control_prompts <= NEIGHBOURS:
            least = NEIGHBOURS + 1
            raise ValueError(f"{' and '.join(by_balls)} go by neighbour {NEIGHBOURS}; set control_prompts to {least} or more")
        return evaluation

    @property
    def kinds(self) -> list[SearchedKind]:
        """The kinds of parameters that the space holds."""
        return list(KINDS) if self.space == "auto" else [self.space]

    def rates_of(self, kind: SearchedKind) -> list[float]:
        """The rates that are tried with a kind, rising."""
        if isinstance(self.learning_rate, dict):
            return self.learning_rate.get(kind, DEFAULT_RATES).rates
        return (self.learning_rate or DEFAULT_RATES).rates

    @property
    def rewards(self) -> list[str]:
        """All that a trial is measured by: objectives, then what constraints ask for besides."""
        return list(dict.fromkeys([*self.objectives, *(constraint.reward for constraint in self.constraints)]))

    @property
    def rung_steps(self) -> list[int]:
        """After which steps a trial is measured; the last are all of them."""
        steps = self.training.steps
        early = {max(1, round(share * steps)) for share in (self.pruning.rungs if self.pruning is not None else ())}
        return [*sorted(step for step in early if step < steps), steps]
