"""What a training job is told of captions; free of tensor libraries, so that the HTTP surface can read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from shared.http.bodies import StrictSpec


class Scrub(StrictSpec):
    """Marks of de-identification, dates and record numbers are taken out of every prompt, once and before anything else."""

    kind: Literal["scrub"]


class MultipleCaptions(StrictSpec):
    """At every visit one of a film's captions, made from its prompt (after Somepalli et al. 2023, MC)."""

    kind: Literal["multiple"]
    count: int = Field(default=20, ge=2, le=100, description="Captions of a film, its prompt among them; fewer where that allows no more.")


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


CaptionRule = Annotated[
    Scrub | MultipleCaptions | RandomCaption | RandomTokens | WordRepetition | EmbeddingNoise, Field(discriminator="kind")
]

_FIRST = ("scrub", "multiple")  # in this order: both are of a film's own prompt


def require_sound_order(captions: Sequence[CaptionRule]) -> None:
    """Refuse a kind that comes twice, and one that would come too late."""
    kinds = [rule.kind for rule in captions]
    if len(set(kinds)) < len(kinds):
        raise ValueError("each kind may be asked for once")
    asked_first = [kind for kind in _FIRST if kind in kinds]
    if kinds[: len(asked_first)] != asked_first:
        raise ValueError(f"{' and then '.join(asked_first)} must come first: of a film's own prompt, before other kinds change it")
