"""The sampler's routes: prompts in, images out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from shared.client.replies import Generation
from shared.client.transport import Transport
from shared.errors import UnavailableError


class SamplerClient:
    """Calls to the sampler."""

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta = timedelta(minutes=10),
        key: SecretStr | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, service="sampler", deadline=deadline, unavailable=UnavailableError, key=key, transport=transport)

    def generate(self, request: Mapping[str, Any]) -> Generation:
        """Draw images."""
        return Generation.model_validate(self.transport.post("/v1/generations", request))
