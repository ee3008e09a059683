"""Prompt-embedding optimisation (Wen et al., ICLR 2024): move the embedding until the prompt pulls like an ordinary one."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from services.mitigator.strategy import Plan, StrategyParameters, Workbench
from shared.diffusion.model import Conditioning
from shared.diffusion.noise import draw_noise
from shared.memorization.magnitude import first_timestep, noise_prediction_magnitude


class OptimisationParameters(StrategyParameters):
    """The paper's constants."""

    learning_rate: float = Field(default=0.05, gt=0, le=1, description="AdamW's rate.")
    max_iterations: int = Field(default=10, ge=1, le=200, description="Updates at most.")
    target: float | None = Field(
        default=None, gt=0, le=1e6, description="Stop at this magnitude per image; null: the control prompts' median."
    )


class EmbeddingOptimisation:
    """Minimises L = √(mean_j d_j²) at step 0 over the prompt's embedding e, the begin token's row frozen."""

    name: ClassVar[str] = "embedding_optimisation"
    summary: ClassVar[str] = "Moves the prompt's embedding by gradient steps until its magnitude is that of an ordinary prompt."
    paper: ClassVar[str] = "Wen et al., ICLR 2024, section 4"
    cost: ClassVar[str] = "n(F+B) per iteration, n the screening's seeds; at most 10 iterations"

    def __init__(self, parameters: OptimisationParameters | None = None) -> None:
        """The paper's constants where nothing is asked for."""
        self.parameters = parameters or OptimisationParameters()

    def apply(self, plan: Plan, bench: Workbench) -> Plan:
        """The plan with the optimised embedding; stops before an update as soon as L ≤ target."""
        target = self.parameters.target or bench.target
        model = bench.model
        noise = draw_noise(bench.screening_seeds, model.latent_shape).to(model.device)
        eps_uncond = bench.cache.get(model, bench.screening_seeds)
        t = first_timestep(model)
        begin = plan.conditioning.embeddings_BLE[:, :1]
        rest = plan.conditioning.embeddings_BLE[:, 1:].clone().requires_grad_()  # row 0 is no leaf: no update, no weight decay
        optimiser = torch.optim.AdamW([rest], lr=self.parameters.learning_rate, weight_decay=0.01)
        iterations = 0
        with torch.enable_grad():
            while True:
                embeddings = torch.cat([begin, rest], 1).expand(len(noise), -1, -1)
                loss = noise_prediction_magnitude(model.predict_noise(noise, t, embeddings), eps_uncond).square().mean().sqrt()
                if loss.item() <= target or iterations == self.parameters.max_iterations:
                    break
                (rest.grad,) = torch.autograd.grad(loss, rest)
                optimiser.step()
                iterations += 1
        optimised = Conditioning(torch.cat([begin, rest.detach()], 1), plan.conditioning.token_ids_BL)
        forwards = len(noise) * (3 * iterations + 1)
        return plan.changed(
            self.name, forwards=forwards, changes=[f"moved the embedding in {iterations} iterations"], conditioning=optimised
        )
