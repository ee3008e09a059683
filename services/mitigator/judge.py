"""The detector as the mitigator's judge, over HTTP; when it is away or judges only in part, nothing is released."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from services.mitigator.mitigation import ImageVerdict, Screening
from shared.client import DetectorClient, UnexpectedAnswerError
from shared.client.replies import Matching
from shared.errors import ScreenerUnavailableError
from shared.imaging.png import encode_png

STEPS: Final = 1
SEEDS_PER_PROMPT: Final = 4  # with STEPS, the settings of a calibration by default
WORST_FIRST: Final = ("copy", "same_patient", "template", "none")


class Calibrated(BaseModel):
    """What a screening tells of its calibration besides the threshold."""

    control_median: float


class DetectorJudge:
    """Asks the detector for its verdicts on prompts and images."""

    def __init__(self, detector: DetectorClient) -> None:
        """Use this client, with its deadline."""
        self._detector = detector

    def screen(self, model_id: str, prompt: str) -> Screening:
        """The prompt's score, beside the threshold and the ordinary score of the calibration in force."""
        with _failing_closed():
            screening = self._detector.screen(model=model_id, prompts=[prompt], steps=STEPS, seeds_per_prompt=SEEDS_PER_PROMPT)
            calibrated = Calibrated.model_validate(screening, from_attributes=True)
        if len(screening.results) != 1:
            raise ScreenerUnavailableError("The detector did not judge the prompt.")
        return Screening(
            score=screening.results[0].score,
            threshold=screening.results[0].threshold,
            target=calibrated.control_median,
            calibration=screening.calibration,
            steps=STEPS,
            seeds_per_prompt=SEEDS_PER_PROMPT,
        )

    def match(self, dataset: str, images_NHW: NDArray[np.uint8], prompts: Sequence[str]) -> list[ImageVerdict]:
        """Each image's nearest training film and its agreement with its prompt."""
        with _failing_closed():
            matching = self._detector.match(dataset=dataset, images=[encode_png(image) for image in images_NHW], prompts=prompts)
        if len(matching.matches) != len(images_NHW) or len(matching.agreements or []) != len(images_NHW):
            raise ScreenerUnavailableError("The detector did not judge every image.")
        return [_verdict(matching, row) for row in range(len(images_NHW))]


@contextmanager
def _failing_closed() -> Iterator[None]:
    """An answer that is not in the contract judges nothing."""
    try:
        yield
    except (UnexpectedAnswerError, ValidationError) as error:
        raise ScreenerUnavailableError("The detector's answer cannot be read as a verdict.") from error


def _verdict(matching: Matching, row: int) -> ImageVerdict:
    """The worst of the neighbours' verdicts, and the highest similarity."""
    neighbours = matching.matches[row]
    agreement = (matching.agreements or [])[row]
    threshold = matching.thresholds.get("copy")
    if not neighbours or agreement is None or threshold is None:
        raise ScreenerUnavailableError("The detector did not judge every image.")
    verdict = min((neighbour.verdict for neighbour in neighbours), key=WORST_FIRST.index)
    fidelity = 1.0 if agreement.value is None else agreement.value  # a prompt that asks for nothing drawable is always met
    similarity = max(neighbour.similarity for neighbour in neighbours)
    return ImageVerdict(similarity, threshold, verdict, fidelity)
