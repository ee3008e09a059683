"""All four services behind one object, as the command line uses them."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from pydantic import SecretStr

from shared.client.detector import DetectorClient
from shared.client.mitigator import MitigatorClient
from shared.client.sampler import SamplerClient
from shared.client.trainer import TrainerClient
from shared.client.transport import Transport
from shared.errors import UnavailableError
from shared.settings import Settings

# Screening and matching many prompts at a time on a busy processor takes its time, and nothing hangs on it here.
_PATIENT: Final = timedelta(minutes=5)
_READY_POLL_SECONDS: Final = 0.2


class LetheClient:
    """The four services."""

    def __init__(self, *, trainer_url: str, sampler_url: str, detector_url: str, mitigator_url: str, key: SecretStr | None = None) -> None:
        self.trainer = TrainerClient(trainer_url, key=key)
        self.sampler = SamplerClient(sampler_url, key=key)
        self.detector = DetectorClient(detector_url, deadline=_PATIENT, unavailable=UnavailableError, key=key)
        self.mitigator = MitigatorClient(mitigator_url, key=key)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The services where the settings say they are, with the API key of whoever asks."""
        return cls(
            trainer_url=settings.trainer_url,
            sampler_url=settings.sampler_url,
            detector_url=settings.detector_url,
            mitigator_url=settings.mitigator_url,
            key=settings.api_key,
        )

    @property
    def transports(self) -> list[Transport]:
        """The ways to the four services."""
        return [self.trainer.transport, self.sampler.transport, self.detector.transport, self.mitigator.transport]

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close all connections."""
        for transport in self.transports:
            transport.close()

    def wait_until_ready(self, *, patience: timedelta) -> None:
        """Return once all services are ready; UnavailableError names those that are not in time."""
        deadline = time.monotonic() + patience.total_seconds()
        while waiting := [transport for transport in self.transports if not transport.is_ready()]:
            if time.monotonic() > deadline:
                names = ", ".join(f"{transport.service} ({transport.url})" for transport in waiting)
                raise UnavailableError(f"Not ready: {names}.")
            time.sleep(_READY_POLL_SECONDS)
