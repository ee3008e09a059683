"""What a training job says of the parameters that learn; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from shared.http.bodies import StrictSpec

ModuleName = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_0-9]+){1,8}$", max_length=100)]
MAX_BLOCKS: Final = 100
MAX_RANK: Final = 1024
RANK: Final = 4  # of adapters that are told none


class PartialParameters(StrictSpec):
    """What every kind may be told: which attention modules take part, by name or by bit, and how fast what is chosen learns."""

    kind: str
    blocks: list[ModuleName] | None = Field(
        default=None,
        max_length=MAX_BLOCKS,
        description="Names of the attention modules that take part, such as down_blocks.0.attentions.1; null takes all.",
    )
    mask: list[Literal[0, 1]] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_BLOCKS,
        description="The same by bit, one for each attention module in the order of a pass (down, middle, up); 1 takes part.",
    )
    learning_rate: float | None = Field(default=None, gt=0, le=1, description="The highest rate of what is chosen; null is the job's.")

    @field_validator("mask")
    @classmethod
    def _require_one_way(cls, mask: list[int] | None, info: ValidationInfo) -> list[int] | None:
        """Two answers to one question could differ."""
        if mask is not None and info.data.get("blocks") is not None:
            raise ValueError("blocks and mask say the same; give one of them")
        return mask

    @property
    def by_module(self) -> tuple[str, Sequence[int]] | None:
        """The field that has a number for each attention module, 0 where it takes no part; None where none has."""
        return None if self.mask is None else ("mask", self.mask)

    @property
    def names_modules(self) -> bool:
        """Whether it says which attention modules take part."""
        return self.blocks is not None or self.by_module is not None

    @property
    def is_partial(self) -> bool:
        """Whether something of the denoiser stays as it is."""
        return self.kind != "full" or self.names_modules


class AttentionAlone(PartialParameters):
    """Kinds that learn inside of attention modules and nowhere else."""

    @field_validator("blocks", "mask")
    @classmethod
    def _require_any(cls, chosen: list[str] | list[int] | None) -> list[str] | list[int] | None:
        """Without any of them nothing would learn."""
        if chosen is not None and not any(chosen):
            raise ValueError("choose at least one attention module: this kind learns nowhere else")
        return chosen


class FullParameters(PartialParameters):
    """Everything but the autoencoder learns; of attention modules, those that take part."""

    kind: Literal["full"] = "full"


class AttentionParameters(AttentionAlone):
    """The denoiser's attention modules learn, with their projections, norms and feed-forward layers."""

    kind: Literal["attention"]


class BiasNormParameters(PartialParameters):
    """The denoiser's biases and the weights of its norms learn; of attention modules, those that take part."""

    kind: Literal["bias_norm"]


class LowRankParameters(AttentionAlone):
    """Products BA of low rank learn beside the projections q, k, v and out of attention modules (LoRA); they are merged at the end."""

    kind: Literal["lora"]
    rank: int = Field(default=RANK, ge=1, le=MAX_RANK, description="Columns of B, rows of A.")
    ranks: list[Annotated[int, Field(ge=0, le=MAX_RANK)]] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_BLOCKS,
        description="A rank for each attention module in the order of a pass, instead of rank, blocks and mask; 0 takes no part.",
    )
    alpha: float | None = Field(default=None, gt=0, le=MAX_RANK, description="BA counts alpha / rank times; null is the rank, so once.")

    @field_validator("ranks")
    @classmethod
    def _require_them_alone(cls, ranks: list[int] | None, info: ValidationInfo) -> list[int] | None:
        """They say how large each adapter is and which modules have one; two answers to one question could differ."""
        if ranks is None:
            return None
        if info.data.get("blocks") is not None or info.data.get("mask") is not None or info.data.get("rank", RANK) != RANK:
            raise ValueError("ranks say what rank, blocks and mask say; give one of them")
        if not any(ranks):
            raise ValueError("give at least one attention module a rank: this kind learns nowhere else")
        return ranks

    @property
    def by_module(self) -> tuple[str, Sequence[int]] | None:
        """The ranks, or what the mask says."""
        return super().by_module if self.ranks is None else ("ranks", self.ranks)


class SingularValueParameters(PartialParameters):
    """The singular values of the denoiser's weights learn (SV-DIFF), one number each; they are merged into plain weights at the end.

    Of attention modules that do not take part, the transformer blocks stay as they are.
    """

    kind: Literal["svdiff"]
    norm_learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="The highest rate of the norms' numbers; null is that of the others. MemControl takes 1e-6."
    )


class ScaleFactorParameters(PartialParameters):
    """Biases, norms and factors of the transformer blocks' branches learn (DiffFit); factors are merged into plain weights at the end.

    Attention modules that do not take part have no factors.
    """

    kind: Literal["diffit"]


AnyParameters = Annotated[
    FullParameters | AttentionParameters | BiasNormParameters | LowRankParameters | SingularValueParameters | ScaleFactorParameters,
    Field(discriminator="kind"),
]
