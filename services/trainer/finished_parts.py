"""The parts of a model that earlier phases of a training made, for the checkpoints of the later ones."""

from __future__ import annotations

from shared.diffusion.checkpoints import State
from shared.diffusion.model import Model


class FinishedParts:
    """Weights by part, and the autoencoder's scaling factor, which is no weight."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._names: list[str] = []

    def add(self, name: str) -> None:
        """Keep a part from now on."""
        self._names.append(name)

    def state(self) -> State:
        """What was made."""
        parts = State.joined({name: State(getattr(self._model, name).state_dict()) for name in self._names})
        return State(
            parts.tensors, parts.facts | {"names": list(self._names), "scaling_factor": float(self._model.vae.config.scaling_factor)}
        )

    def restore(self, state: State) -> None:
        """Put it back into the model."""
        self._names = list(state.facts["names"])
        for name in self._names:
            getattr(self._model, name).load_state_dict(state.part(name).tensors)
        self._model.vae.register_to_config(scaling_factor=state.facts["scaling_factor"])
        self._model.weights_changed()
