"""What the running mitigator holds, and how one request goes through it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from prometheus_client import Counter

from services.mitigator.mitigation import Ladder, Order, SafeImage, Workshop, mitigate
from services.mitigator.registry import AUTO, STRATEGIES, ladder_of
from services.mitigator.schemas import GenerationRequest
from services.mitigator.turns import Turns
from shared.catalog import Catalog
from shared.diffusion.generation import count_generation
from shared.diffusion.prompt_windows import PromptWindows
from shared.errors import ConflictError, MitigationInsufficientError
from shared.memorization.magnitude import UnconditionalCache

REFUSALS = Counter("lethe_mitigations_refused_total", "Requests that no strategy made safe.", ["mitigation"])
# All names from the start: an increase from nothing to one is none to Prometheus, and the alert would miss the first.
for _name in (AUTO, *STRATEGIES):
    REFUSALS.labels(mitigation=_name)


@dataclass(frozen=True, kw_only=True)
class MitigatorState:
    """The catalog's models, the workshop that requests share, and their turns in it."""

    catalog: Catalog
    windows: PromptWindows
    workshop: Workshop
    turns: Turns = field(default_factory=Turns)
    cache: UnconditionalCache = field(default_factory=UnconditionalCache)

    async def release(self, body: GenerationRequest) -> list[tuple[int, SafeImage]]:
        """The request's safe images with the index of their prompt; what cannot be asked is refused before anything waits."""
        ladder = ladder_of(body.mitigation.strategy, body.mitigation.parameters)
        dataset = (await asyncio.to_thread(self.catalog.get, "model", body.model)).dataset
        if dataset is None:
            raise ConflictError("this model names no data set, so its images cannot be matched against what it learnt from")
        await asyncio.to_thread(self.windows.require_fit, body.model, body.prompts)
        async with self.turns.taken():
            return await self._drawn(body, dataset, ladder)

    async def _drawn(self, body: GenerationRequest, dataset: str, ladder: Ladder) -> list[tuple[int, SafeImage]]:
        """Every prompt's images; the first prompt that cannot be made safe refuses the request."""
        began = time.monotonic()
        name = body.mitigation.strategy
        released: list[tuple[int, SafeImage]] = []
        for index, prompt in enumerate(body.prompts):
            order = Order(
                model_id=body.model,
                dataset=dataset,
                prompt=prompt,
                images=body.images_per_prompt,
                steps=body.steps,
                guidance_scale=body.guidance_scale,
                scheduler=body.scheduler,
                seed=body.seed,
            )
            try:
                released += [(index, image) for image in await mitigate(order, ladder, self.workshop, self.cache)]
            except MitigationInsufficientError as error:
                REFUSALS.labels(name).inc()
                evidence = [{"prompt_index": index, **entry} for entry in error.evidence]
                raise MitigationInsufficientError(str(error), evidence=evidence) from error
        count_generation(images=len(released), seconds=time.monotonic() - began, mitigation=name)
        return released
