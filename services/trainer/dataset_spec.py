"""What a caller says of a data set to register: its source, its prompts, its splits, and the gates it must pass."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.http.bodies import StrictSpec
from shared.imaging.prompts import AgeWording, Template, Uncertain
from shared.imaging.sources import View

Action = Literal["report", "drop", "refuse"]
"""What a gate does about the films that it finds: tell, leave them out, or refuse the data set."""


# Told in the schema alone: where a folder is opened, what is wrong with it is said in words.
FOLDER_PATTERN: Final[dict[str, Any]] = {"pattern": "^file://(localhost)?/"}
SourceUri = Annotated[
    str, Field(min_length=1, max_length=4096, description="file:// folder within the import roots.", json_schema_extra=FOLDER_PATTERN)
]
TableName = Annotated[str, Field(min_length=1, max_length=255, description="A table below the folder, .csv or .csv.gz.")]


class CheXpertSource(StrictSpec):
    """A folder in CheXpert's layout."""

    format: Literal["chexpert"]
    uri: SourceUri
    csv: TableName = Field(default="train.csv", description="The table of films, below the folder.")
    reports_csv: str | None = Field(default=None, max_length=255, description="Reports in CheXpert Plus's columns, below the folder.")


class MimicSource(StrictSpec):
    """A folder in MIMIC-CXR-JPG's layout; reports lie beside the pictures' folders, as MIMIC-CXR has them."""

    format: Literal["mimic-cxr-jpg"]
    uri: SourceUri
    labels: Literal["chexpert", "negbio"] = Field(default="chexpert", description="The labeller whose table is read.")
    splits: list[Literal["train", "validate", "test"]] = Field(
        default=["train", "validate", "test"], min_length=1, max_length=3, description="Which of the set's own splits are read."
    )
    reports_uri: SourceUri | None = Field(
        default=None, description="file:// folder within the import roots that holds files/pXX/…/sSTUDY.txt; uri without it."
    )


class ImageFolderSource(StrictSpec):
    """A folder of pictures with metadata.csv or metadata.jsonl, as Hugging Face's imagefolder has it."""

    format: Literal["imagefolder"]
    uri: SourceUri
    metadata: str | None = Field(
        default=None, min_length=1, max_length=255, description="The table, below the folder; metadata.csv or metadata.jsonl without it."
    )


class DicomSource(StrictSpec):
    """A folder of DICOM files, searched through."""

    format: Literal["dicom"]
    uri: SourceUri
    allow_burned_in: bool = Field(
        default=False,
        description="Read films whose BurnedInAnnotation is YES, and secondary captures where it is not NO; they are refused otherwise.",
    )


class PhantomSource(StrictSpec):
    """Procedural radiographs, written in CheXpert's layout and read back."""

    format: Literal["phantom"]
    uri: str | None = Field(default=None, max_length=4096, description="file:// folder to write to; under LETHE_HOME without it.")
    patients: int = Field(default=400, ge=2, le=20_000, description="How many synthetic patients; each has one to four films.")


FolderSource = CheXpertSource | MimicSource | ImageFolderSource | DicomSource
"""The sources that are read where they lie: films of patients."""

AnySource = Annotated[FolderSource | PhantomSource, Field(discriminator="format")]


class PromptRecipe(StrictSpec):
    """How prompts are composed."""

    template: Template = Field(default="findings", description="What a prompt is written from; see docs/datasets.md.")
    uncertain: Uncertain = Field(
        default="ignore", description="Whether an uncertain label counts as present; mixed: for Atelectasis and Edema only."
    )
    age: AgeWording = Field(default="exact", description="How prompts give an age.")
    scrub: bool = Field(default=False, description="Take de-identification marks, dates and record numbers out of prompts.")
    encoder: str | None = Field(
        default=None,
        pattern=r"^mdl_[0-9a-z]{1,40}$",
        description="The model whose tokenizer measures prompts; without it, lengths are not told.",
    )
    max_tokens: int | None = Field(
        default=None, ge=2, le=4096, description="Longest prompt in tokens, begin and end included; the encoder's own limit without it."
    )


class CanaryRecipe(StrictSpec):
    """How many training films are repeated, and how often each."""

    count: int = Field(default=10, ge=0, le=10_000)
    repeats: int = Field(default=40, ge=2, le=1000)


class Gate(StrictSpec):
    """What becomes of the films that a gate finds."""

    action: Action = Field(default="report", description="Tell of the films, leave them out, or refuse the data set.")


class AnonymityGate(StrictSpec):
    """Films whose prompt belongs to fewer than `k` patients."""

    k: int = Field(default=5, ge=2, le=1000, description="How many patients must share a prompt.")
    action: Literal["report", "generalise", "drop", "refuse"] = Field(
        default="report", description="As the other gates; or give those films' ages by decade."
    )


class Gates(StrictSpec):
    """What a data set is examined for."""

    duplicates: Gate = Field(default=Gate(), description="Films with the pixels of an earlier film.")
    near_duplicates: Gate = Field(default=Gate(), description="Films that look like an earlier film.")
    k_anonymity: AnonymityGate = Field(default=AnonymityGate(), description="Films with a prompt of few patients.")
    deidentification: Gate = Field(default=Gate(), description="Films whose prompt holds de-identification marks, dates or record numbers.")
    burned_in: Gate = Field(default=Gate(), description="Films with writing in the picture.")
    prompt_length: Gate = Field(default=Gate(), description="Films whose prompt is longer than the encoder reads.")


class DatasetSpec(StrictSpec):
    """What to register."""

    name: str = Field(min_length=1, max_length=200)
    source: AnySource
    image_size: int = Field(default=64, ge=16, le=1024, multiple_of=8, description="Side of the square films, in pixels.")
    prompt: PromptRecipe = PromptRecipe()
    views: list[View] = Field(
        default=["frontal"],
        min_length=1,
        max_length=5,
        description="Which films are read; other are those whose source states no view, or another.",
    )
    max_films_per_patient: int | None = Field(
        default=None, ge=1, le=10_000, description="Films of one patient beyond these are left out; without it, all are kept."
    )
    control_fraction: float = Field(default=0.2, ge=0, le=0.9, description="Share of the patients that is never trained on.")
    canaries: CanaryRecipe | None = None
    gates: Gates = Gates()
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
