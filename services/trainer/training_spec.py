"""What a training job is told; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.http.bodies import Seed


class _Strict(BaseModel):
    """Frozen, without unknown fields, without conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FullParameters(_Strict):
    """Everything but the autoencoder learns."""

    kind: Literal["full"] = "full"


class TrainingSpec(_Strict):
    """Which data, which network, how long; the fields from `parameters` on are where methods join the training step."""

    name: str = Field(min_length=1, max_length=200)
    dataset: str = Field(min_length=1, max_length=64, description="The data set to learn from: its training films and canaries.")
    base: str | None = Field(
        default=None, min_length=1, max_length=64, description="A model to go on from; null starts from random weights."
    )
    architecture: Literal["tiny"] = Field(default="tiny", description="The network that is made where there is no base.")
    steps: int = Field(default=1500, ge=1, le=1_000_000, description="Steps of the denoiser; autoencoder and text encoder learn before.")
    batch_size: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    prompt_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of the visits at which the prompt is left out.")
    seed: Seed = 0
    parameters: FullParameters = FullParameters()
    captions: list[str] = Field(default=[], max_length=0, description="Caption transforms; none are known yet.")
    batch_filter: None = Field(default=None, description="A rule that leaves samples out; none is known yet.")
    timesteps: Literal["uniform"] = "uniform"
    ensemble: None = Field(default=None, description="A schedule of several models; none is known yet.")
