"""The detector as the mitigator's judge, over HTTP; when it is away, nothing is released."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.mitigator.mitigation import ImageVerdict, Screening
from shared.client import DetectorClient
from shared.client.replies import Matching
from shared.errors import ScreenerUnavailableError
from shared.imaging.png import encode_png


class DetectorJudge:
    """Asks the detector for its verdicts on prompts and images."""

    def __init__(self, detector: DetectorClient) -> None:
        """Use this client, with its deadline."""
        self._detector = detector

    def screen(self, model_id: str, prompt: str) -> Screening:
        """The prompt's score, beside the threshold and the ordinary score of the calibration in force."""
        screening = self._detector.screen(model=model_id, prompts=[prompt])
        result = screening.results[0]
        settings = self._detector.get_calibration(screening.calibration).result or {}
        return Screening(
            score=result.score,
            threshold=result.threshold,
            target=float(settings["control_median"]),
            calibration=screening.calibration,
            steps=int(settings["steps"]),
            seeds_per_prompt=int(settings["seeds_per_prompt"]),
        )

    def match(self, dataset: str, images_NHW: NDArray[np.uint8], prompts: Sequence[str]) -> list[ImageVerdict]:
        """Each image's nearest training film and its agreement with its prompt."""
        matching = self._detector.match(dataset=dataset, images=[encode_png(image) for image in images_NHW], prompts=prompts)
        if len(matching.matches) != len(images_NHW) or matching.agreements is None:
            raise ScreenerUnavailableError("The detector did not judge every image.")
        return [_verdict(matching, row) for row in range(len(images_NHW))]


def _verdict(matching: Matching, row: int) -> ImageVerdict:
    """The worst of the neighbours' verdicts, and the highest similarity."""
    neighbours = matching.matches[row]
    agreement = (matching.agreements or [])[row]
    if not neighbours or agreement is None:
        raise ScreenerUnavailableError("The detector did not judge every image.")
    verdicts = {neighbour.verdict for neighbour in neighbours}
    verdict = next(name for name in ("copy", "same_patient", "template", "none") if name in verdicts)
    fidelity = 1.0 if agreement.value is None else agreement.value  # a prompt that asks for nothing drawable is always met
    similarity = max(neighbour.similarity for neighbour in neighbours)
    return ImageVerdict(similarity, matching.thresholds["copy"], verdict, fidelity)
