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
TUNED: Final[tuple[Setting, ...]] = ("fine-tuned",)

BASELINE: Final = "plain"
UNTRAINED: Final = "base as it is"  # what a model that never saw the films scores

IET: Final = {"kind": "iet", "shards": 4, "rounds": 10}
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


METHODS: Final = (
    Method(BASELINE),
    Method(UNTRAINED, settings=TUNED, note="not trained on these films"),
    _part("attention", 1e-3, kind="attention"),
    _part("bias and norm", 5e-3, kind="bias_norm"),
    _part("LoRA r=4", 5e-3, kind="lora", rank=4),
    _part("SV-DIFF", 1e-2, kind="svdiff"),
    _part("DiffFit", 5e-3, kind="diffit"),
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
)

PARTS: Final = tuple(method.name for method in METHODS if "parameters" in method.asks and "ensemble" not in method.asks)
PUBLISHED: Final = tuple(method.name for method in METHODS if method.name not in {BASELINE, UNTRAINED})
QUICK_METHODS: Final = (BASELINE, "SV-DIFF", "AGC", "IET-AGC+")


def spec_of(method: Method, setting: Setting, regime: Regime, seed: int) -> TrainingSpec:
    """The training job."""
    tuned = setting == "fine-tuned"
    return TrainingSpec.model_validate(
        {
            "name": method.name,
            "dataset": "canaries",
            "base": "other-patients" if tuned else None,
            "steps": regime.steps,
            "batch_size": regime.batch,
            "learning_rate": regime.tuned_rate if tuned else regime.scratch_rate,
            "prompt_dropout": regime.prompt_dropout,
            "text_encoder": "frozen",
            "seed": seed,
        }
        | method.asks
    )
