"""Who calls, as routes see it, and what is answered to those who do not say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter
from prometheus_client import REGISTRY
from starlette.responses import JSONResponse

from shared.access import Caller, bound_caller, current_caller
from shared.access.key_records import KeyRecords
from shared.database import Database
from shared.errors import UnauthenticatedError, UnavailableError
from shared.http.access import guarded_routes, requires
from shared.http.authentication import Admission, Authentication
from shared.settings import Settings

KEY = Caller(id="key_1", kind="key", scopes=frozenset({"read"}))
SERVICE = Caller(id="key_2", kind="service", scopes=frozenset({"read"}))


class Desk:
    """Knows three credentials."""

    async def caller_of(self, authorization: str | None) -> Caller:
        """The caller of one, or why there is none."""
        if authorization is None:
            raise UnauthenticatedError("Show one.", reason="missing")
        match authorization:
            case "Bearer key":
                return KEY
            case "Bearer service":
                return SERVICE
            case "Bearer away":
                raise UnavailableError("Nobody can tell.")
        raise UnauthenticatedError("It has expired.", reason="expired")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers who calls."""
    caller = current_caller()
    said = {"id": caller.id, "scopes": len(caller.scopes), "on_behalf_of": caller.on_behalf_of}
    await JSONResponse(said)(scope, receive, send)


async def ask(path: str = "/v1/things", *, required: bool = True, headers: Any = None) -> httpx.Response:
    """One request, through the middleware."""
    guarded = Authentication(Admission(app, guarded=[]), required=required)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await guarded({**scope, "state": {"authenticator": Desk()}}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=with_state), base_url="http://service") as client:
        return await client.get(path, headers=headers)


def failures(reason: str) -> float:
    """How many were refused for this reason."""
    return REGISTRY.get_sample_value("lethe_auth_failures_total", {"reason": reason}) or 0.0


async def test_without_authentication_everybody_is_anonymous_whatever_they_show() -> None:
    answer = await ask(required=False, headers={"Authorization": "Bearer old", "Lethe-On-Behalf-Of": "the director"})
    assert answer.json() == {"id": "anonymous", "scopes": 9, "on_behalf_of": None}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_needs_no_credential(path: str) -> None:
    assert (await ask(path)).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json", "/v1/info", "/nowhere", "/livez/", "//livez"])
async def test_every_other_path_needs_one(path: str) -> None:
    answer = await ask(path)
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:lethe:problem:unauthenticated"


async def test_caller_without_a_credential_is_told_what_to_show() -> None:
    before = failures("missing")
    answer = await ask()
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lethe"'
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"] == "Show one."
    assert failures("missing") == before + 1


async def test_caller_with_a_bad_one_is_told_the_reason() -> None:
    before = failures("expired")
    answer = await ask(headers={"Authorization": "Bearer old"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lethe", error="invalid_token", error_description="expired"'
    assert failures("expired") == before + 1


async def test_good_credential_names_the_caller() -> None:
    answer = await ask(headers={"Authorization": "Bearer key"})
    assert answer.json() == {"id": "key_1", "scopes": 1, "on_behalf_of": None}


async def test_two_credentials_are_none() -> None:
    headers = [("Authorization", "Bearer key"), ("Authorization", "Bearer service")]
    answer = await ask(headers=headers)
    assert answer.status_code == 401
    assert 'error_description="malformed"' in answer.headers["WWW-Authenticate"]


async def test_credential_that_nobody_can_check_is_no_fault_of_the_caller() -> None:
    answer = await ask(headers={"Authorization": "Bearer away"})
    assert answer.status_code == 503
    assert "WWW-Authenticate" not in answer.headers
    assert "Retry-After" in answer.headers


async def test_service_says_for_whom_it_works() -> None:
    answer = await ask(headers={"Authorization": "Bearer service", "Lethe-On-Behalf-Of": "person:dr-grey"})
    assert answer.json()["on_behalf_of"] == "person:dr-grey"


async def test_only_services_work_for_others() -> None:
    before = failures("scope")
    answer = await ask(headers={"Authorization": "Bearer key", "Lethe-On-Behalf-Of": "person:dr-grey"})
    assert answer.status_code == 403
    assert failures("scope") == before + 1


async def test_caller_without_the_scope_is_refused_before_anything_of_the_body_is_read() -> None:
    router = APIRouter()
    router.post("/v1/films", dependencies=[requires("export")])(lambda: None)
    router.post("/v1/things", dependencies=[requires("read")])(lambda: None)
    asked: list[str] = []

    async def behind(scope: Any, _receive: Any, _send: Any) -> None:
        asked.append(scope["path"])

    async def receive() -> Any:
        raise AssertionError("The body was read.")

    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    admission = Admission(behind, guarded=guarded_routes([router]))
    before = failures("scope")
    with bound_caller(KEY):
        for path in ("/v1/films", "/v1/things", "/v1/nowhere"):
            await admission({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    assert [message["status"] for message in answers if "status" in message] == [403]
    assert (b"connection", b"close") in answers[0]["headers"]
    assert asked == ["/v1/things", "/v1/nowhere"]
    assert failures("scope") == before + 1


@pytest.mark.parametrize("principal", ["", "two words", "x" * 256, "ümlaut"])
async def test_principal_that_is_no_id_is_unreadable(principal: str) -> None:
    answer = await ask(headers={"Authorization": "Bearer service", "Lethe-On-Behalf-Of": principal.encode()})
    assert answer.status_code == 400
    assert principal not in answer.text or principal == ""


async def test_unread_body_is_not_taken_for_the_next_request() -> None:
    assert (await ask()).headers["Connection"] == "close"


@pytest.mark.server
def test_served_app_lets_in_who_shows_a_key_or_a_token(
    start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    with provided() as provider, closing(Database.open(settings)) as database:
        for name, value in {"AUTH": "on", "OIDC_ISSUER": provider.url, "OIDC_AUDIENCE": "lethe", "OIDC_JWKS_URL": provider.url}.items():
            monkeypatch.setenv(f"LETHE_{name}", value)
        with start_server() as server:

            def status(credential: str) -> int:
                """What the caller of this credential gets."""
                headers = {"Authorization": f"Bearer {credential}"}
                return int(server.client.get("/v1/info", headers=headers).status_code)

            records = KeyRecords.of(settings, database)
            issued = records.create(name="ward a", scopes=["read"], lifetime=None)
            assert [status(issued.text), status(issued.text), status(issued.text[:-1])] == [200, 200, 401]
            assert [status(provider.token(300)), status(provider.token(-300))] == [200, 401]
            assert issued.text not in server.logs()


class HttpProvider:
    """An identity provider behind a URL."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key())), "kid": "ec-1"}
        answer = json.dumps({"keys": [public]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_words: object) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def token(self, seconds: int) -> str:
        """A token that ends in so many seconds."""
        claims = {"iss": self.url, "aud": "lethe", "sub": "dr-grey", "exp": int(time.time()) + seconds}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "ec-1"})


@contextmanager
def provided() -> Iterator[HttpProvider]:
    """The provider while it serves."""
    provider = HttpProvider()
    thread = threading.Thread(target=provider.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.server.shutdown()
        thread.join()
        provider.server.server_close()
