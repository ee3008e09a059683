"""Text-conditional noise-prediction magnitude d = ‖ε_c − ε_u‖₂, the signal of Wen et al. (ICLR 2024).

B batch, P prompts, S seeds, T steps, C channels, H height, W width.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

import torch
from torch import Tensor

from shared.diffusion.denoise import Step, denoise
from shared.diffusion.guidance import ClassifierFreeGuidance
from shared.diffusion.model import Conditioning, Model
from shared.diffusion.noise import draw_noise, image_seed
from shared.diffusion.out_of_memory import halved_where_needed
from shared.diffusion.schedulers import make_scheduler

TRAJECTORY_STEPS: Final = 50  # step 0 of a 50-step DDIM run is t = 981, where screening looks
SCREENING_GUIDANCE: Final = 7.5  # steers the steps after the first; step 0 does not depend on it
FORWARD_BATCH: Final = 32
CACHED_NOISES: Final = 256  # unconditional predictions kept per process, one per (model, seed); 4 KiB each for the tiny model


def noise_prediction_magnitude(eps_cond: Tensor, eps_uncond: Tensor) -> Tensor:
    """d per image: the L2 norm over one image's latent, in fp32, not scaled by guidance, size or timestep. B×C×H×W → B."""
    return torch.as_tensor(torch.linalg.vector_norm((eps_cond.float() - eps_uncond.float()).flatten(1), dim=1))


class MagnitudeObserver:
    """Collects d at every step it sees."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.values: list[Tensor] = []

    def observe(self, step: Step) -> None:
        """Keep d of this step."""
        self.values.append(noise_prediction_magnitude(step.eps_cond, step.eps_uncond))

    @property
    def magnitudes_TB(self) -> Tensor:
        """d by step and image."""
        return torch.stack(self.values)


class UnconditionalCache:
    """ε_u at step 0 by (model, seed): it depends on nothing else, so half the cost of one-step screening is paid once."""

    def __init__(self, capacity: int = CACHED_NOISES) -> None:
        """Keep at most `capacity` predictions, the least recently used ones go first."""
        self._capacity = capacity
        self._known: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, model: Model, seeds: Sequence[int]) -> Tensor:
        """ε_u(x_T(seed), t_0) for each seed, S×C×H×W; computes what it does not know, in one batch."""
        with self._lock:
            missing = [seed for seed in seeds if (model.key, seed) not in self._known]
            if missing:
                noise = draw_noise(missing, model.latent_shape).to(model.device)
                with torch.no_grad():
                    predictions = model.predict_noise(noise, first_timestep(model), model.unconditional_1LE.expand(len(missing), -1, -1))
                self._known.update({(model.key, seed): row for seed, row in zip(missing, predictions, strict=True)})
            rows = [self._known[model.key, seed] for seed in seeds]
            for seed in seeds:
                self._known.move_to_end((model.key, seed))
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
            return torch.stack(rows)


def first_timestep(model: Model) -> int:
    """t_0 of the screening trajectory; `make_scheduler` refuses a schedule on which the signal is zero by construction."""
    return int(make_scheduler("ddim", model.scheduler_config, TRAJECTORY_STEPS).timesteps[0])


def screen(
    model: Model,
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    steps: int,
    cache: UnconditionalCache,
    batch_size: int = FORWARD_BATCH,
) -> Tensor:
    """d for each prompt, seed and screened step: P×S×T; all prompts share the same noises.

    Cost: P·S conditional forwards at step 0 (ε_u comes from the cache), 2·P·S at each further step.
    """
    noise = draw_noise(seeds, model.latent_shape)
    eps_uncond = cache.get(model, seeds)

    def look(prompt_rows: list[int], seed_rows: list[int]) -> Tensor:
        """d at each step of some pairs of prompt and seed."""
        observer = MagnitudeObserver()
        walk = denoise(
            model,
            Conditioning(conditioning.embeddings_BLE[prompt_rows], conditioning.token_ids_BL[prompt_rows]),
            noise[seed_rows],
            steps=TRAJECTORY_STEPS,
            guidance=ClassifierFreeGuidance(SCREENING_GUIDANCE),
            observers=[observer],
            first_eps_uncond=eps_uncond[seed_rows],
        )
        for _ in itertools.islice(walk, steps):
            pass
        return observer.magnitudes_TB.T

    return each_prompt_and_seed(look, len(conditioning), len(seeds), batch_size)


def each_prompt_and_seed(look: Callable[[list[int], list[int]], Tensor], prompts: int, seeds: int, batch_size: int) -> Tensor:
    """P×S×…: what `look` sees of every pair of a prompt and a seed, of which it gets so many at once."""

    def rows_of(pairs: Sequence[tuple[int, int]]) -> list[Tensor]:
        prompt_rows, seed_rows = (list(each) for each in zip(*pairs, strict=True))
        return list(look(prompt_rows, seed_rows))

    pairs = list(itertools.product(range(prompts), range(seeds)))
    rows = [row for start in range(0, len(pairs), batch_size) for row in halved_where_needed(rows_of, pairs[start : start + batch_size])]
    return torch.as_tensor(torch.stack(rows).unflatten(0, (prompts, seeds)))


def screening_seeds(seed: int, count: int) -> list[int]:
    """The seeds of a screening, numbered as images are."""
    return [image_seed(seed, j) for j in range(count)]


def prompt_scores(magnitudes_PST: Tensor) -> Tensor:
    """One score a prompt: the mean of d over seeds and steps (Wen et al., section 3); larger is more memorized."""
    return magnitudes_PST.mean((1, 2))
