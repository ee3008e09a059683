"""What a training job is told of captions; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.http.bodies import StrictSpec


class _CaptionChange(StrictSpec):
    """A caption is changed at some of its visits."""

    probability: float = Field(default=0.1, ge=0, le=1, description="Share of the visits at which the caption is changed.")


class RandomCaption(_CaptionChange):
    """The caption becomes random words (Somepalli et al. 2023, RC)."""

    kind: Literal["random_caption"]
    words: int = Field(default=4, ge=1, le=64, description="How many random words stand in its place.")


class RandomTokens(_CaptionChange):
    """Random words are inserted at random places (Somepalli et al. 2023, RT)."""

    kind: Literal["random_tokens"]
    words: int = Field(default=2, ge=1, le=64, description="How many random words are inserted.")


class WordRepetition(_CaptionChange):
    """Words of the caption are inserted once more at random places (Somepalli et al. 2023, CWR)."""

    kind: Literal["word_repetition"]
    words: int = Field(default=2, ge=1, le=64, description="How many of its words are repeated.")


class EmbeddingNoise(StrictSpec):
    """Gaussian noise on the caption's embedding, at every visit (Somepalli et al. 2023, GN)."""

    kind: Literal["embedding_noise"]
    scale: float = Field(default=0.1, gt=0, le=1, description="The noise's standard deviation.")


CaptionRule = Annotated[RandomCaption | RandomTokens | WordRepetition | EmbeddingNoise, Field(discriminator="kind")]
