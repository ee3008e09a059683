"""Whether a training fits into memory, asked before anything of it is read; and the smallest change with which it would.

The parts are counted from the configs: weights, gradients, AdamW's two moments, the average, caches, the films, copies for
checkpoints, and what a step keeps for its backward pass. docs/fine-tuning.md sets the estimate beside measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Final

from services.trainer.activation_memory import Networks
from services.trainer.architectures import build_tiny
from services.trainer.available_memory import available_device_bytes, available_host_bytes
from services.trainer.denoising_loss import latents_at_once
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.training import AUTOENCODER_BATCH
from services.trainer.training_spec import TrainingSpec
from shared.catalog import DatasetManifest
from shared.errors import InvalidRequestError

NUMBER_BYTES: Final = 4  # of a weight, a gradient, a moment
# Peaks of processes, measured, over what passes keep: buffers of operations and gradients on their way come on top.
KEPT_FACTOR: Final = 1.3
RECOMPUTED_FACTOR: Final = 2.3
ENCODING_FACTOR: Final = 3  # an operation's input and output, and a workspace
CHECKPOINT_COPIES: Final = 2  # one is being written, one may wait
GIB: Final = 2**30

Parts = dict[str, int]
Change = dict[str, Any]


class MemoryShortageError(InvalidRequestError):
    """A training needs more memory than there is; `field` names what to change first."""


@dataclass(frozen=True)
class Needs:
    """Bytes by what they are for, at the peak of the phase that needs most: where tensors lie, and in the machine's memory."""

    device: Parts
    host: Parts


@dataclass(frozen=True)
class Estimate:
    """What trainings of one model on one data set need."""

    networks: Networks
    films: int
    prompts: int
    from_scratch: bool
    device: str
    _steps: dict[tuple[bool, bool, bool, str], tuple[int, int]] = field(default_factory=dict, compare=False)
    _selections: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, dataset: DatasetManifest, base: Path | None, device: str) -> Estimate:
        """Of a data set and a base's folder, or, without one, the tiny model; manifests and configs alone are read."""
        films = sum(count for split, count in dataset.counts.items() if split != "control")
        size = dataset.image_size
        networks = Networks.described(base, size) if base is not None else Networks.of(build_tiny([], size), size)
        return cls(networks, films, min(films, dataset.prompt_uniqueness.get("distinct", films)) + 1, base is None, device)

    def needs(self, spec: TrainingSpec) -> Needs:
        """Of one training."""
        phases = [self._caching(spec), self._learning(spec)]
        if self.from_scratch:
            phases.append(self._autoencoder())
        device = max(phases, key=lambda parts: sum(parts.values()))
        host = self._host(spec)
        if spec.ensemble is not None:
            # The training's own process holds films, weights and the last round's average while the processes of shards learn.
            device = _times(spec.ensemble.parallel, device)
            host = _times(spec.ensemble.parallel, host)
            device["weights"] += self._weights
            host["films"] += self._film_bytes(self.films)
            host["rounds"] = (1 + (spec.ema_decay is not None)) * self._learning_bytes(spec)
        if self.device != "cpu":
            return Needs(device, host)
        # Ranks share the batch and nothing else.
        everything = _times(spec.data_parallel.ranks, host | device)
        return Needs(everything, everything)

    def _learning(self, spec: TrainingSpec) -> Parts:
        """The denoiser's phase."""
        learning = self._learning_bytes(spec)
        averaged = (spec.ema_decay is not None) + (spec.validation is not None)
        cached_prompts = min(self.prompts, self._films(spec) + 1) if spec.text_encoder == "frozen" and spec.cache_embeddings else 0
        return {
            "weights": self._weight_bytes(spec),
            "gradients": learning,
            "optimiser": 2 * learning,
            "average": averaged * learning,
            "latents": self._latents(spec),
            "embeddings": cached_prompts * self.networks.embedding_bytes,
            "activations": self._activations(spec),
        }

    def _caching(self, spec: TrainingSpec) -> Parts:
        """Before: latents are computed in batches, and for a moment held twice."""
        size = self.networks.image_size
        at_once = latents_at_once(size) if spec.cache_latents else spec.batch_size
        encoding = ENCODING_FACTOR * self._encoding_bytes * at_once
        return {"weights": self._weights, "latents": 2 * self._latents(spec), "activations": encoding}

    def _autoencoder(self) -> Parts:
        """From scratch: the autoencoder's own training."""
        learning = NUMBER_BYTES * self._parameters["vae"]
        kept = round(KEPT_FACTOR * self._autoencoder_bytes) * AUTOENCODER_BATCH
        return {"weights": self._weights, "gradients": learning, "optimiser": 2 * learning, "activations": kept}

    def _host(self, spec: TrainingSpec) -> Parts:
        """What lies in the machine's memory wherever the tensors lie."""
        kept = (3 + (spec.ema_decay is not None)) * self._learning_bytes(spec)
        of_shard = self._films(spec) if spec.ensemble is not None else 0  # copied out of all
        return {"films": self._film_bytes(self.films + of_shard), "checkpoints": CHECKPOINT_COPIES * kept}

    def _learning_bytes(self, spec: TrainingSpec) -> int:
        """One number each of the weights that learn."""
        return NUMBER_BYTES * (self._selected(spec)[0] + (self._parameters["text_encoder"] if spec.text_encoder == "train" else 0))

    def _weight_bytes(self, spec: TrainingSpec) -> int:
        """All weights, with what a selection of parameters keeps beside them."""
        return self._weights + NUMBER_BYTES * (self._selected(spec)[1] - self._parameters["unet"])

    def _selected(self, spec: TrainingSpec) -> tuple[int, int]:
        """Of the denoiser: how many numbers learn, and how many it holds."""
        key = spec.parameters.model_dump_json()
        if key not in self._selections:
            self._selections[key] = self.networks.selected(spec.parameters)
        return self._selections[key]

    def _film_bytes(self, count: int) -> int:
        return count * self.networks.image_size**2

    def _latents(self, spec: TrainingSpec) -> int:
        return self._films(spec) * self.networks.latent_bytes if spec.cache_latents else 0

    def _films(self, spec: TrainingSpec) -> int:
        """Those that one denoiser learns from."""
        return self.films if spec.ensemble is None else -(-self.films // spec.ensemble.shards)

    def _activations(self, spec: TrainingSpec) -> int:
        """Of one pass: a part that every pass has, such as autocast's copies of weights, and one that grows with the batch."""
        key = (spec.precision == "bf16", spec.gradient_checkpointing, spec.text_encoder == "train", spec.parameters.model_dump_json())
        if key not in self._steps:
            bf16, checkpointing, text_learns, _ = key
            one, two = (
                self.networks.step_bytes(batch, bf16=bf16, checkpointing=checkpointing, text_learns=text_learns, parameters=spec.parameters)
                for batch in (1, 2)
            )
            self._steps[key] = (2 * one - two, two - one)
        fixed, each = self._steps[key]
        batch = -(-spec.batch_size // spec.data_parallel.ranks)
        return round((RECOMPUTED_FACTOR if spec.gradient_checkpointing else KEPT_FACTOR) * each * batch) + max(0, fixed)

    @cached_property
    def _parameters(self) -> dict[str, int]:
        return self.networks.parameters()

    @cached_property
    def _encoding_bytes(self) -> int:
        return self.networks.encoding_bytes(1)

    @cached_property
    def _autoencoder_bytes(self) -> int:
        return self.networks.autoencoder_bytes(1)

    @property
    def _weights(self) -> int:
        return NUMBER_BYTES * sum(self._parameters.values())


def require_memory(estimate: Estimate, spec: TrainingSpec, *, device_bytes: int | None = None, host_bytes: int | None = None) -> Needs:
    """The needs of a training that fits into what is available; MemoryShortageError, which says what would fit, of one that does not."""
    device_room = available_device_bytes(estimate.device) if device_bytes is None else device_bytes
    host_room = available_host_bytes() if host_bytes is None else host_bytes

    def fits(needs: Needs) -> bool:
        return sum(needs.device.values()) <= device_room and sum(needs.host.values()) <= host_room

    needs = estimate.needs(spec)
    if fits(needs):
        return needs
    change = next((change for change in _changes(spec) if fits(estimate.needs(spec.model_copy(update=change)))), None)
    short, room = (needs.device, device_room) if sum(needs.device.values()) > device_room else (needs.host, host_room)
    told = f"The training needs about {_gib(sum(short.values()))} of memory ({_parts(short)}), and {_gib(room)} are free"
    if change is None:
        raise MemoryShortageError(
            f"{told}; no setting makes it fit: register films of a smaller size, take a smaller base, or give it more memory.",
            field="dataset",
        )
    after = estimate.needs(spec.model_copy(update=change))
    would = sum((after.device if short is needs.device else after.host).values())
    wishes = ", ".join(f"{name} {_told(value)}" for name, value in change.items())
    remark = " The batch filter would judge each of the smaller passes by itself." if spec.batch_filter and "batch_size" in change else ""
    raise MemoryShortageError(f"{told}; with {wishes} it needs about {_gib(would)} and fits.{remark}", field=_field(next(iter(change))))


def _changes(spec: TrainingSpec) -> Iterator[Change]:
    """What could be asked for instead, the smallest change first: few before many, and in the order of what they cost.

    Smaller passes cost nothing; shards in turn, recomputing and encoding anew cost time; bfloat16 costs digits; no average and a
    frozen text encoder learn something else. So do smaller passes where a batch filter judges each: then they come last.
    """
    batches: list[Change] = [{}]
    for passes in range(2, spec.batch_size + 1):
        accumulation = spec.gradient_accumulation * passes
        if spec.batch_size % passes == 0 and (spec.batch_size // passes) % spec.data_parallel.ranks == 0 and accumulation <= 1024:
            batches.append({"batch_size": spec.batch_size // passes, "gradient_accumulation": accumulation})
    alternatives: list[list[Change]] = [
        [{}] if spec.ensemble is None or spec.ensemble.parallel == 1 else [{}, {"ensemble": _in_turn(spec.ensemble)}],
        [{}] if spec.gradient_checkpointing else [{}, {"gradient_checkpointing": True}],
        [{}, {"cache_embeddings": False}] if spec.cache_embeddings and spec.text_encoder == "frozen" else [{}],
        [{}, {"cache_latents": False}] if spec.cache_latents else [{}],
        [{}] if spec.precision == "bf16" else [{}, {"precision": "bf16"}],
        [{}] if spec.ema_decay is None else [{}, {"ema_decay": None}],
        [{}] if spec.text_encoder == "frozen" else [{}, {"text_encoder": "frozen", "cache_embeddings": False}],
    ]
    alternatives.insert(0 if spec.batch_filter is None else len(alternatives), batches)
    choices = [choice for choice in product(*(range(len(options)) for options in alternatives)) if any(choice)]
    # Fewer changes first; of equally many, those whose costliest one costs least; of equal ones, the larger batch.
    choices.sort(key=lambda choice: (sum(map(bool, choice)), max(place for place, taken in enumerate(choice) if taken), choice))
    for choice in choices:
        yield {name: value for options, taken in zip(alternatives, choice, strict=True) for name, value in options[taken].items()}


def _field(change: str) -> str:
    """Which field a change is of; of an ensemble one is changed."""
    return "ensemble.parallel" if change == "ensemble" else change


def _in_turn(rule: EnsembleRule) -> EnsembleRule:
    return rule.model_copy(update={"parallel": 1})


def _times(count: int, parts: Parts) -> Parts:
    return {name: count * size for name, size in parts.items()}


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _parts(parts: Parts) -> str:
    return ", ".join(f"{name} {_gib(size)}" for name, size in sorted(parts.items(), key=lambda part: -part[1]) if size)


def _told(value: Any) -> str:
    if isinstance(value, EnsembleRule):
        return f"parallel {value.parallel}"
    return {True: "true", False: "false", None: "null"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)
