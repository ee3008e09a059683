"""What a training job says of the parameters that learn; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.http.bodies import StrictSpec

ModuleName = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_0-9]+){1,8}$", max_length=100)]
MAX_BLOCKS: Final = 100


class FullParameters(StrictSpec):
    """Everything but the autoencoder learns."""

    kind: Literal["full"] = "full"


class AttentionParameters(StrictSpec):
    """The denoiser's attention modules learn, with their projections, norms and feed-forward layers."""

    kind: Literal["attention"]
    blocks: list[ModuleName] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_BLOCKS,
        description="Names of the attention modules that learn, such as down_blocks.0.attentions.1; null takes all.",
    )


class BiasNormParameters(StrictSpec):
    """The denoiser's biases and the weights of its norms learn."""

    kind: Literal["bias_norm"]


class SingularValueParameters(StrictSpec):
    """The singular values of the denoiser's weights learn (SV-DIFF), one number each; they are merged into plain weights at the end."""

    kind: Literal["svdiff"]
    blocks: list[ModuleName] | None = Field(
        default=None,
        max_length=MAX_BLOCKS,
        description="Names of the attention modules whose transformer blocks learn too; outside of them everything does. null takes all.",
    )


class ScaleFactorParameters(StrictSpec):
    """Biases, norms and factors of the transformer blocks' branches learn (DiffFit); factors are merged into plain weights at the end."""

    kind: Literal["diffit"]
    blocks: list[ModuleName] | None = Field(
        default=None,
        max_length=MAX_BLOCKS,
        description="Names of the attention modules that get factors; biases and norms learn everywhere. null takes all.",
    )


AnyParameters = Annotated[
    FullParameters | AttentionParameters | BiasNormParameters | SingularValueParameters | ScaleFactorParameters, Field(discriminator="kind")
]
