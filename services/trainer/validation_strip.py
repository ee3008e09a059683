"""Pictures drawn while the denoiser learns: the same prompts from the same noise, side by side in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from services.trainer.uploads import Uploads
from shared.diffusion.checkpoint_store import FOLDER
from shared.diffusion.generation import generate_images
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Model
from shared.diffusion.optimisation import Run
from shared.diffusion.undisturbed import undisturbed
from shared.errors import InvalidRequestError
from shared.imaging.png import encode_png
from shared.storage import ObjectStore

STEPS: Final = 20
GUIDANCE: Final = 3.0


class ValidationStrip:
    """Draws a strip every so many steps from the averaged weights; the training goes on as if nothing had happened."""

    def __init__(self, model: Model, prompts: Sequence[str], *, every: int, seed: int, guided: bool) -> None:
        """Refuse prompts that the text encoder cannot read, before anything is learnt."""
        try:
            model.tokenize(prompts)
        except InvalidRequestError as error:
            raise InvalidRequestError(str(error), field=f"validation.{error.field}") from error
        self._model = model
        self._prompts = list(prompts)
        self._every = every
        self._seed = seed
        self._guidance = ClassifierFreeGuidance(GUIDANCE if guided else 1.0)

    def is_due(self, run: Run) -> bool:
        """Whether a strip is to be drawn after this step."""
        return run.step % self._every == 0

    def draw(self, run: Run) -> bytes:
        """The strip of the run as it is now, as PNG."""
        with run.averaged(), undisturbed(self._model):
            images_NHW = generate_images(
                self._model, self._prompts, images_per_prompt=1, seed=self._seed, steps=STEPS, guidance=self._guidance
            )
        return encode_png(np.concatenate(list(images_NHW), axis=1))


def offer_strip(strip: ValidationStrip, run: Run, *, store: ObjectStore, job_id: str, uploads: Uploads) -> None:
    """Draw a strip when one is due, and have it stored beside the job's checkpoints."""
    if strip.is_due(run):
        key, data = f"{FOLDER}/{job_id}/validation/{run.step}.png", strip.draw(run)
        uploads.offer(key, lambda: _put(store, key, data))


def _put(store: ObjectStore, key: str, data: bytes) -> None:
    store.put(key=key, data=data)
