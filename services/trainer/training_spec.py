"""What a training job is told; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from services.trainer.caption_rules import CaptionRule, require_sound_order
from services.trainer.deduplication_rules import Deduplication
from services.trainer.ensemble.rules import EnsembleRule
from services.trainer.filter_rules import FilterRule
from services.trainer.parameters.kinds import AnyParameters, FullParameters
from shared.http.bodies import Seed, StrictSpec


class Validation(StrictSpec):
    """Pictures that are drawn while the denoiser learns, always from the same noise."""

    every: int = Field(default=500, ge=1, le=1_000_000, description="Steps between two strips.")
    prompts: list[Annotated[str, Field(max_length=1000)]] = Field(
        min_length=1, max_length=8, description="One picture of each; prompts of control films show what was not learnt by heart."
    )


class DataParallel(StrictSpec):
    """How many processes share each batch."""

    ranks: int = Field(default=1, ge=1, le=64, description="Processes that each take an equal share of every batch; 1 is none.")


class FoundBy(StrictSpec):
    """Where parameters, rate, filter and captions were found."""

    search: str = Field(min_length=1, max_length=64, description="A search's id.")
    trial: int = Field(ge=0, description="The trial's number in it.")


class TrainingSpec(StrictSpec):
    """Which data, which network, how long; how it is fitted into memory; and where methods join the training step."""

    name: str = Field(min_length=1, max_length=200)
    dataset: str = Field(min_length=1, max_length=64, description="The data set to learn from: its training films and canaries.")
    base: str | None = Field(
        default=None, min_length=1, max_length=64, description="A model to go on from; null starts from random weights."
    )
    architecture: Literal["tiny"] = Field(default="tiny", description="The network that is made where there is no base.")
    steps: int = Field(default=1500, ge=1, le=1_000_000, description="Steps of the denoiser; autoencoder and text encoder learn before.")
    batch_size: int = Field(default=16, ge=1, le=1024, description="Films of one pass; a step takes gradient_accumulation passes.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="The highest rate; fine-tuning takes 1e-5 or so.")
    prompt_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of the visits at which the prompt is left out.")
    seed: Seed = 0

    autoencoder: Literal["frozen"] = Field(default="frozen", description="The autoencoder never moves while the denoiser learns.")
    text_encoder: Literal["train", "frozen"] = Field(default="train", description="Whether the text encoder learns with the denoiser.")
    truncate_prompts: bool = Field(
        default=False,
        description="Cut prompts that are longer than the text encoder's window; false refuses the data set with their count.",
    )
    schedule: Literal["one_cycle", "constant", "cosine", "linear"] = Field(
        default="one_cycle", description="How the rate falls after the warm-up."
    )
    warm_up: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="AdamW's.")
    ema_decay: float | None = Field(
        default=0.995, ge=0, lt=1, description="Of the averaged weights that the model ends with; null ends with the last ones."
    )
    objective: Literal["epsilon", "native"] = Field(
        default="epsilon",
        description="What the error is measured in: noise, or what the network answers. They differ for v-prediction: native is usual.",
    )
    min_snr_gamma: float | None = Field(
        default=None, gt=0, le=1000, description="Weigh timesteps by min(SNR, gamma), Hang et al. 2023; 5 is usual. null weighs none."
    )
    noise_offset: float = Field(
        default=0.0, ge=0, le=1, description="Noise common to all pixels of a latent channel, for darker and brighter films; 0.05 is usual."
    )

    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16 computes in bfloat16 and keeps weights in float32.")
    gradient_accumulation: int = Field(default=1, ge=1, le=1024, description="Passes whose gradients are averaged into one step.")
    gradient_checkpointing: bool = Field(default=False, description="Compute activations again instead of keeping them: slower, smaller.")
    cache_latents: bool = Field(default=True, description="Encode every film once and hold the latents; false encodes at every visit.")
    cache_embeddings: bool = Field(
        default=True, description="With a frozen text encoder, encode every distinct prompt once and hold it; false encodes at every visit."
    )
    data_parallel: DataParallel = DataParallel()
    checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Keep the training after so many steps too; null keeps it by time alone, every minute.",
    )
    validation: Validation | None = Field(default=None, description="Pictures to draw on the way; null draws none.")

    parameters: AnyParameters = Field(
        default=FullParameters(),
        description="Which parameters learn; all kinds but full, and full by block, need a base and a frozen text encoder.",
    )
    deduplicate: Deduplication | None = Field(
        default=None, description="Drop films that show the same picture, repeats, and films of one patient beyond a cap; null keeps all."
    )
    captions: list[CaptionRule] = Field(
        default=[], max_length=6, description="What is done to captions, in this order, each kind once; scrub and multiple come first."
    )
    batch_filter: FilterRule | None = Field(default=None, description="Which samples of a batch are left out; null leaves none out.")
    timesteps: Literal["uniform", "u_shaped"] = Field(
        default="uniform", description="Which noise levels are drawn: all alike, or those in the middle less."
    )
    ensemble: EnsembleRule | None = Field(
        default=None,
        description="Several models that learn apart and are averaged, in the denoiser's place; `steps` are those of all together. "
        "null trains one.",
    )
    found_by: FoundBy | None = Field(default=None, description="The search's trial whose choice this is; applying a search fills it in.")

    @field_validator("parameters")
    @classmethod
    def _require_a_frozen_rest(cls, parameters: AnyParameters, info: ValidationInfo) -> AnyParameters:
        """A part of a denoiser learns from where the whole has been."""
        if parameters.is_partial and info.data.get("base") is None:
            raise ValueError("kinds other than full, blocks and masks need a base: some or most of the network stays as it is")
        if parameters.is_partial and info.data.get("text_encoder") == "train":
            raise ValueError("kinds other than full, blocks and masks are of the denoiser alone; set text_encoder to frozen")
        return parameters

    @field_validator("captions")
    @classmethod
    def _require_sound_order(cls, captions: list[CaptionRule]) -> list[CaptionRule]:
        """Some kinds are of a film's own prompt."""
        require_sound_order(captions)
        return captions

    @field_validator("batch_filter")
    @classmethod
    def _require_whole_batches(cls, rule: FilterRule | None, info: ValidationInfo) -> FilterRule | None:
        """A rank sees its share alone: its quantiles, means and weights of what it keeps would not be the whole batch's."""
        parallel: DataParallel | None = info.data.get("data_parallel")
        if rule is not None and parallel is not None and parallel.ranks > 1:
            raise ValueError("a batch filter judges whole batches, and ranks see shares of them; set data_parallel.ranks to 1")
        return rule

    @field_validator("ensemble")
    @classmethod
    def _require_rounds_of_steps(cls, rule: EnsembleRule | None, info: ValidationInfo) -> EnsembleRule | None:
        """Each shard takes a step in each round, alone, with nothing to look at before a round's end."""
        if rule is None:
            return None
        if (steps := info.data.get("steps")) is not None and steps < rule.shards * rule.rounds:
            raise ValueError(f"{rule.shards} shards of {rule.rounds} rounds take {rule.shards * rule.rounds} steps or more")
        if rule.redistribute is not None and "batch_filter" in info.data and info.data["batch_filter"] is None:
            raise ValueError("ensemble.redistribute moves by how often a batch filter leaves out; give a batch_filter, or take null")
        parallel: DataParallel | None = info.data.get("data_parallel")
        if parallel is not None and parallel.ranks > 1:
            raise ValueError("shards learn in processes of their own, and share no batches; set data_parallel.ranks to 1")
        if info.data.get("validation") is not None:
            raise ValueError("strips are drawn between a run's steps, and an ensemble's model is there after the last round; validate none")
        return rule

    def without_prompts(self) -> dict[str, Any]:
        """As a model's manifest keeps it: of the validation's prompts their number, for a manifest never expires."""
        told = self.model_dump(mode="json")
        if self.validation is not None:
            told["validation"]["prompts"] = len(self.validation.prompts)
        return told
