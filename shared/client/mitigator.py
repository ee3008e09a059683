"""The mitigator's routes: prompts in, images that are no copies out, or a refusal with its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from shared.client.replies import SafeGeneration, Strategy
from shared.client.transport import Transport
from shared.errors import UnavailableError


class MitigatorClient:
    """Calls to the mitigator."""

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta = timedelta(minutes=15),
        key: SecretStr | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, service="mitigator", deadline=deadline, unavailable=UnavailableError, key=key, transport=transport)

    def list_strategies(self) -> list[Strategy]:
        """The mitigations that can be named."""
        return [Strategy.model_validate(item) for item in self.transport.get("/v1/strategies")["items"]]

    def generate(self, request: Mapping[str, Any]) -> SafeGeneration:
        """Draw images that the detector lets pass; MitigationProblemError when none does."""
        return SafeGeneration.model_validate(self.transport.post("/v1/generations", request))
