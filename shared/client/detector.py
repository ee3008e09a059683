"""The detector's routes: prompts or images in, risk out. Used this way by services, it fails closed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from shared.client.operations import ProgressCallback, ignore_progress, wait_for
from shared.client.replies import Matching, Operation, Screening
from shared.client.transport import Transport
from shared.errors import ScreenerUnavailableError, UnavailableError


class DetectorClient:
    """Calls to the detector.

    Without an answer within the deadline, or with an answer that judges nothing (5xx), ScreenerUnavailableError is raised, so that
    whoever releases images releases none. `unavailable` is another class where nothing is released.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta = timedelta(seconds=60),
        unavailable: type[UnavailableError] = ScreenerUnavailableError,
        key: SecretStr | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, service="detector", deadline=deadline, unavailable=unavailable, key=key, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def calibrate(self, spec: Mapping[str, Any]) -> Operation:
        """Start a calibration."""
        return Operation.model_validate(self.transport.create("/v1/calibrations", spec))

    def wait_for_calibration(self, calibration: str, *, on_progress: ProgressCallback = ignore_progress) -> Operation:
        """The calibration once it is in force, with its threshold."""
        return wait_for(self.transport, f"/v1/calibrations/{calibration}", on_progress=on_progress)

    def get_calibration(self, calibration: str) -> Operation:
        """A calibration as it is now."""
        return Operation.model_validate(self.transport.get(f"/v1/calibrations/{calibration}"))

    def list_calibrations(self) -> list[Operation]:
        """The newest calibrations."""
        return [Operation.model_validate(item) for item in self.transport.get("/v1/calibrations")["items"]]

    def get_gallery(self, gallery: str) -> Operation:
        """A gallery as it is now."""
        return Operation.model_validate(self.transport.get(f"/v1/galleries/{gallery}"))

    def screen(
        self,
        *,
        model: str,
        prompts: Sequence[str],
        steps: int = 1,
        seeds_per_prompt: int = 4,
        seed: int = 0,
        explain: bool = False,
    ) -> Screening:
        """Judge prompts before anything is drawn."""
        body = {"model": model, "prompts": list(prompts), "steps": steps, "seeds_per_prompt": seeds_per_prompt, "seed": seed}
        return Screening.model_validate(self.transport.post("/v1/screenings", {**body, "explain": explain}))

    def match(self, *, dataset: str, images: Sequence[bytes], k: int = 5, prompts: Sequence[str] | None = None) -> Matching:
        """Look for images (PNG) among the training films; with prompts, one an image, say what is seen of them."""
        pictures = [base64.b64encode(png).decode("ascii") for png in images]
        asked = {"prompts": list(prompts)} if prompts is not None else {}
        return Matching.model_validate(self.transport.post("/v1/matches", {"dataset": dataset, "images": pictures, "k": k, **asked}))
