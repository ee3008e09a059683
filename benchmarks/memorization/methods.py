"""The methods that are compared, each as a user would ask for it: fields of `POST /v1/training-jobs`.

Constants are the published ones. Learning rates of the parts of a denoiser were chosen on a seed that is not reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from benchmarks.memorization.regime import Regime
from services.trainer.training_spec import TrainingSpec

Setting = Literal["from scratch", "fine-tuned"]
SETTINGS: Final[tuple[Setting, ...]] = ("from scratch", "fine-tuned")
SCRATCH: Final[tuple[Setting, ...]] = ("from scratch",)
TUNED: Final[tuple[Setting, ...]] = ("fine-tuned",)

BASELINE: Final = "plain"
SMALL_BATCHES: Final = "plain, batches of 4"  # as many steps, as small, as an ensemble's: what of its effect is theirs
UNTRAINED: Final = "base as it is"  # what a model that never saw the films scores

ATTENTION_RATE: Final = 5e-3
SVDIFF_RATE: Final = 3e-2
SHARDS: Final = 4
SMALL_BATCH: Final = 0.5  # of the rate, for batches of a quarter: its square root

IET: Final[dict[str, Any]] = {"kind": "iet", "shards": SHARDS, "rounds": 10}
AGC: Final = {"kind": "anti_gradient"}
IET_AGC_PLUS: Final = {"ensemble": IET | {"redistribute": 0.05}, "batch_filter": AGC | {"augment_margin": 0.1}}


@dataclass(frozen=True)
class Method:
    """A name, what it asks for beside what all do, and where it can be asked for."""

    name: str
    asks: dict[str, Any] = field(default_factory=dict)
    settings: tuple[Setting, ...] = SETTINGS
    note: str = ""


def _part(name: str, rate: float, **parameters: Any) -> Method:
    """A part of the denoiser; from random weights there is nothing that the rest could stay at, and the trainer refuses."""
    return Method(name, {"parameters": parameters | {"learning_rate": rate}}, TUNED)


COMBINATIONS: Final = (
    Method("AGC, multiple captions", {"batch_filter": AGC, "captions": [{"kind": "multiple"}]}, SCRATCH),
    Method("IET-AGC+, random captions", IET_AGC_PLUS | {"captions": [{"kind": "random_caption"}]}, SCRATCH),
    Method(
        "IET-AGC+, attention", IET_AGC_PLUS | {"parameters": {"kind": "attention", "learning_rate": ATTENTION_RATE * SMALL_BATCH}}, TUNED
    ),
    Method(
        "IET-AGC+, SV-DIFF, random captions",
        IET_AGC_PLUS
        | {"parameters": {"kind": "svdiff", "learning_rate": SVDIFF_RATE * SMALL_BATCH}, "captions": [{"kind": "random_caption"}]},
        TUNED,
    ),
)
METHODS: Final = (
    Method(BASELINE),
    Method(SMALL_BATCHES, note="the ensembles' batches"),
    Method(UNTRAINED, settings=TUNED, note="not trained on these films"),
    _part("attention", ATTENTION_RATE, kind="attention"),
    _part("bias and norm", 3e-2, kind="bias_norm"),
    _part("LoRA r=4", 3e-3, kind="lora", rank=4),
    _part("SV-DIFF", SVDIFF_RATE, kind="svdiff"),
    _part("DiffFit", 3e-2, kind="diffit"),
    Method("magnitude filter", {"batch_filter": {"kind": "magnitude"}}),
    Method("magnitude filter by timestep", {"batch_filter": {"kind": "magnitude", "by_timestep": True}}),
    Method("AGC", {"batch_filter": AGC}),
    Method("multiple captions", {"captions": [{"kind": "multiple"}]}),
    Method("random captions", {"captions": [{"kind": "random_caption"}]}),
    Method("random tokens", {"captions": [{"kind": "random_tokens"}]}),
    Method("word repetition", {"captions": [{"kind": "word_repetition"}]}),
    Method("embedding noise", {"captions": [{"kind": "embedding_noise"}]}),
    Method("U-shaped timesteps", {"timesteps": "u_shaped"}),
    Method("deduplication", {"deduplicate": {}}, note="takes the planted repeats themselves away"),
    Method("IET", {"ensemble": IET}),
    Method("IET-AGC", {"ensemble": IET, "batch_filter": AGC}),
    Method("IET-AGC+", IET_AGC_PLUS),
    *COMBINATIONS,
)

PARTS: Final = tuple(method.name for method in METHODS if "parameters" in method.asks and "ensemble" not in method.asks)
PUBLISHED: Final = tuple(
    method.name for method in METHODS if method not in COMBINATIONS and method.name not in {BASELINE, SMALL_BATCHES, UNTRAINED}
)
ENSEMBLES: Final = tuple(method.name for method in METHODS if "ensemble" in method.asks)
QUICK_METHODS: Final = (BASELINE, "SV-DIFF", "AGC", "IET-AGC+")


def spec_of(method: Method, setting: Setting, regime: Regime, seed: int) -> TrainingSpec:
    """The training job.

    All see the same number of samples. A shard of an ensemble takes them in batches that are its share of a plain one, and so as many
    steps as plain training does; Liu et al. (2024) give ensembles smaller batches too.
    """
    tuned = setting == "fine-tuned"
    shards = SHARDS if "ensemble" in method.asks or method.name == SMALL_BATCHES else 1
    asked = {
        "name": method.name,
        "dataset": "canaries",
        "base": "other-patients" if tuned else None,
        "steps": regime.steps * shards,
        "batch_size": regime.batch // shards,
        "learning_rate": (regime.tuned_rate if tuned else regime.scratch_rate) * (SMALL_BATCH if shards > 1 else 1),
        "prompt_dropout": regime.prompt_dropout,
        "text_encoder": "frozen",
        "seed": seed,
    }
    return TrainingSpec.model_validate(asked | method.asks)
