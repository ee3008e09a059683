"""Idempotency keys over HTTP: whose they are, what they stand for, and answers that are given once and then repeated."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from shared.access import current_caller
from shared.errors import UnavailableError
from shared.http.disconnects import while_connected
from shared.http.kept_answers import Claim, KeptAnswers
from shared.http.problems import MalformedRequestError
from shared.http.recording import record_of
from shared.jobs.idempotency import IdempotencyKey, canonical_digest
from shared.jobs.leases import LEASE
from shared.kept_keys import kept_key
from shared.settings import Settings
from shared.telemetry import get_logger

# What a route that takes a key says of its header in the schema; the header is read here, with a word of its own when it is wrong.
IDEMPOTENT: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "Makes repeating the request safe: the same key and body answer with the same resource.",
        }
    ]
}
# Says of an answer that it was given before.
REPLAYED: Final = "Idempotency-Replayed"

KEY_FILE: Final = "idempotency.key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_RENEWALS_PER_LEASE: Final = 3

_LOG = get_logger(__name__)


def idempotency_key(request: Request, *, route: str, fingerprint: str) -> IdempotencyKey | None:
    """The caller's Idempotency-Key, which is nobody else's, with what it stands for; None without one."""
    key = request.headers.get("idempotency-key")
    return None if key is None else _key(request, key, route=f"/v1/{route}", fingerprint=fingerprint)


async def answered_once(request: Request, body: BaseModel, work: Callable[[], Coroutine[Any, Any, BaseModel]]) -> Response:
    """The answer of `work` as JSON; with an Idempotency-Key it is worked for once, to the end, and repeated from then on.

    Without a key, the work is given up when the caller goes away. Errors are not kept: they free the key.
    """
    shown = request.headers.get("idempotency-key")
    if shown is None:
        return _json(await _content(await while_connected(request, work())))
    fingerprint = await asyncio.to_thread(_fingerprint, body, request.app.state.settings)  # of up to 32 MiB
    key = _key(request, shown, route=request.scope["route"].path, fingerprint=fingerprint)
    answers = KeptAnswers(request.state.database)
    claim = await asyncio.to_thread(answers.claim, key)
    if isinstance(claim, bytes):
        return _json(claim, **{REPLAYED: "true"})
    try:
        async with _renewed(answers, claim):
            content = await _content(await work())
    except BaseException:
        await _settled(answers.release, claim)
        raise
    record_of(request).keep_charge()  # first: a kept answer is repeated whatever becomes of this one
    await _settled(answers.keep, claim, content)
    return _json(content)


def _key(request: Request, key: str, *, route: str, fingerprint: str) -> IdempotencyKey:
    """What a key stands for; MalformedRequestError for one that is none."""
    if not _KEY.fullmatch(key):
        raise MalformedRequestError("The Idempotency-Key must be 1 to 255 visible ASCII characters.")
    caller = current_caller()
    # With the service: two of them have a POST /v1/generations on one database.
    holder = canonical_digest([request.app.state.service, caller.id, caller.on_behalf_of])[:32]
    return IdempotencyKey(holder=holder, scope=f"{holder} POST {route}", key=key, fingerprint=fingerprint)


def _fingerprint(body: BaseModel, settings: Settings) -> str:
    """The digest of a body under a key of the installation's, since it holds prompts that a plain digest would let others guess."""
    digest = canonical_digest(body.model_dump(mode="json"))
    return hmac.digest(kept_key(settings.keys_folder / KEY_FILE), digest.encode(), hashlib.sha256).hex()


async def _content(answer: BaseModel) -> bytes:
    """An answer as JSON, written on a thread: images take a while, and others are served meanwhile."""
    return (await asyncio.to_thread(answer.model_dump_json)).encode()


def _json(content: bytes, **headers: str) -> Response:
    """A response that nobody in between keeps."""
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-store"} | headers)


@asynccontextmanager
async def _renewed(answers: KeptAnswers, claim: Claim) -> AsyncIterator[None]:
    """Hold a claim while the block lasts."""

    async def renew() -> None:
        """Again and again."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / _RENEWALS_PER_LEASE)
            await _settled(answers.renew, claim)

    renewing = asyncio.create_task(renew(), name="idempotency-lease")
    try:
        yield
    finally:
        renewing.cancel()


async def _settled(change: Callable[..., None], claim: Claim, *arguments: bytes) -> None:
    """Change what is kept; where the database is away, the lease runs out by itself and the answer is given all the same."""
    try:
        await asyncio.to_thread(change, claim, *arguments)
    except UnavailableError as error:
        _LOG.warning("what is kept of an idempotency key was not changed", exc_info=error)
