"""What the running mitigator holds, and how one request goes through it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from services.mitigator.judge import DetectorJudge
from services.mitigator.mitigation import Order, SafeImage, mitigate
from services.mitigator.registry import ladder_of
from services.mitigator.schemas import GenerationRequest
from shared.catalog import Catalog
from shared.diffusion.lane import ComputeLane
from shared.diffusion.library import ModelLibrary
from shared.errors import ConflictError, MitigationInsufficientError
from shared.memorization.magnitude import UnconditionalCache

IMAGES = Counter("lethe_images_generated_total", "Images released.", ["mitigation"])
REFUSALS = Counter("lethe_mitigations_refused_total", "Requests that no strategy made safe.", ["mitigation"])
DURATION = Histogram(
    "lethe_generation_duration_seconds", "Time of one generation request.", ["mitigation"], buckets=(0.5, 1, 2, 5, 10, 20, 60, 120, 300)
)


@dataclass(frozen=True, kw_only=True)
class MitigatorState:
    """The catalog's models, the judge, and the one lane on which tensors are worked."""

    catalog: Catalog
    library: ModelLibrary
    lane: ComputeLane
    judge: DetectorJudge
    cache: UnconditionalCache = field(default_factory=UnconditionalCache)

    async def release(self, body: GenerationRequest) -> list[tuple[int, SafeImage]]:
        """The request's safe images with the index of their prompt."""
        ladder_of(body.mitigation.strategy, body.mitigation.parameters)  # refuses what cannot be asked before anything waits
        return await self.lane.run(lambda: self._drawn(body))

    def _drawn(self, body: GenerationRequest) -> list[tuple[int, SafeImage]]:
        """Every prompt's images; the first prompt that cannot be made safe refuses the request."""
        dataset = self.catalog.get("model", body.model).dataset
        if dataset is None:
            raise ConflictError("this model names no data set, so its images cannot be matched against what it learnt from")
        name, began = body.mitigation.strategy, time.perf_counter()
        ladder = ladder_of(name, body.mitigation.parameters)
        released: list[tuple[int, SafeImage]] = []
        with self.library.use(body.model) as model:
            model.tokenize(body.prompts)  # refuses prompts beyond the encoder's window
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
                    released += [(index, image) for image in mitigate(order, ladder, model, self.judge, self.cache)]
                except MitigationInsufficientError:
                    REFUSALS.labels(name).inc()
                    raise
        IMAGES.labels(name).inc(len(released))
        DURATION.labels(name).observe(time.perf_counter() - began)
        return released
