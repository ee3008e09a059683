"""A loss curve of bounded size: neighbours are averaged once there are too many points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

MAX_POINTS: Final = 500


class LossCurve:
    """Losses of one phase, step after step; each point is the mean of `stride` steps, and the stride doubles when it must."""

    def __init__(self, means: Sequence[float] = (), rest: Sequence[float] = (), stride: int = 1) -> None:
        self._means = list(means)
        self._rest = list(rest)
        self._stride = stride

    @property
    def steps(self) -> int:
        """How many losses were added."""
        return len(self._means) * self._stride + len(self._rest)

    def add(self, losses: Sequence[float]) -> None:
        """Append the losses of the next steps."""
        self._rest += losses
        while len(self._rest) >= self._stride:
            self._means.append(sum(self._rest[: self._stride]) / self._stride)
            del self._rest[: self._stride]
            if len(self._means) >= MAX_POINTS:
                self._means = [(left + right) / 2 for left, right in zip(self._means[::2], self._means[1::2], strict=True)]
                self._stride *= 2

    def points(self) -> list[tuple[int, float]]:
        """(last step of the mean, mean loss), the newest and still incomplete mean included."""
        whole = [((number + 1) * self._stride, mean) for number, mean in enumerate(self._means)]
        return [*whole, (self.steps, sum(self._rest) / len(self._rest))] if self._rest else whole

    def facts(self) -> dict[str, Any]:
        """What another curve has to be made with to go on from here."""
        return {"means": list(self._means), "rest": list(self._rest), "stride": self._stride}
