"""The one place where httpx clients are made: deadlines, trace ids, problems as exceptions, a word for silence."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from shared.access import ON_BEHALF_OF, current_caller
from shared.client.failures import ProblemError, UnexpectedAnswerError, problem_error
from shared.errors import ScreenerUnavailableError, UnavailableError
from shared.telemetry import lethe_version, span, traceparent

# Connecting on one machine or in one cluster takes milliseconds; whoever takes longer is away.
_CONNECT_SECONDS: Final = 5.0
# Only attempts to connect are repeated: whatever was sent once is never sent again without an Idempotency-Key.
_CONNECT_RETRIES: Final = 2
# Event streams send a heartbeat every 15 seconds; two of them missing means that nobody is there.
_STREAM_SECONDS: Final = 40.0


class Transport:
    """Requests to one service, safe to share between threads."""

    def __init__(
        self,
        url: str,
        *,
        service: str,
        deadline: timedelta,
        unavailable: type[UnavailableError] = UnavailableError,
        key: SecretStr | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`deadline` bounds the wait for an answer; `unavailable` is raised when none comes; `key` is the API key that is shown."""
        self.url = url
        self.service = service
        self._unavailable = unavailable
        credential = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._http = httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(deadline.total_seconds(), connect=_CONNECT_SECONDS),
            headers={"User-Agent": f"lethe/{lethe_version()}", **credential},
            event_hooks={"request": [_continue_trace, _name_caller]},
            transport=transport or httpx.HTTPTransport(retries=_CONNECT_RETRIES, verify=_trust(url)),
            # A proxy from the environment has no business between the services of one house.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON object at a path; a query parameter that is None is left out."""
        return self._json(self._send("GET", path, params=_given(query)))

    def get_bytes(self, path: str) -> bytes:
        """The bytes at a path."""
        return self._send("GET", path).content

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a request answers."""
        return self._json(self._send("POST", path, json=dict(body)))

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The operation that a request starts; repeated once if the answer got lost, which its Idempotency-Key makes safe."""
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        try:
            return self._json(self._send("POST", path, json=dict(body), headers=headers))
        except ProblemError:
            raise
        except UnavailableError:
            return self._json(self._send("POST", path, json=dict(body), headers=headers))

    def is_ready(self) -> bool:
        """Whether the service says that it should get work."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An open event stream; what breaks it is raised as it is, since a stream is simply opened again."""
        timeout = httpx.Timeout(_STREAM_SECONDS, connect=_CONNECT_SECONDS)
        with self._http.stream("GET", path, headers={"Accept": "text/event-stream", **headers}, timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise self._problem(response)
            yield response

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A response that is no error."""
        try:
            with span(f"{method} {self.service}", kind="client", **{"http.request.method": method, "peer.service": self.service}) as told:
                response = self._http.request(method, path, **options)
                told.set_attribute("http.response.status_code", response.status_code)
        except httpx.TransportError as error:
            raise self._unavailable(f"The {self.service} at {self.url} {self._reason(error)}.") from error
        if response.is_success:
            return response
        problem = self._problem(response)
        if _judges_nothing(response) and issubclass(self._unavailable, ScreenerUnavailableError):
            raise self._unavailable(f"The {self.service} at {self.url} could not judge (status {response.status_code}).") from problem
        raise problem

    def _reason(self, error: httpx.TransportError) -> str:
        """Why there is no answer, for whoever set the address."""
        if isinstance(error, httpx.ReadTimeout):
            return "took too long"
        variable = f"LETHE_{self.service.upper()}_URL"
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return f"shows a certificate that is not trusted here ({cause.verify_message}); SSL_CERT_FILE may name its authority"
            if isinstance(cause, ssl.SSLError):
                return f"speaks no TLS; let {variable} begin with http://"
        return f"does not answer; start it, or let {variable} say where it runs"

    def _problem(self, response: httpx.Response) -> Exception:
        """The exception of an error response."""
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return UnexpectedAnswerError(f"What answers at {self.url} is no Lethe {self.service} (status {response.status_code}).")
        return problem_error(body, status=response.status_code)

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        """The object in a response."""
        try:
            body = response.json()
        except json.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise UnexpectedAnswerError(f"What answers at {self.url} is no Lethe {self.service}: it sent no JSON object.")
        return body


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _trust(url: str) -> ssl.SSLContext | bool:
    """The system's trust store, which a hospital's own authority can be added to (or be named to by SSL_CERT_FILE)."""
    return ssl.create_default_context() if urlsplit(url).scheme == "https" else False


def _judges_nothing(response: httpx.Response) -> bool:
    """Whether an answer says of a service that it cannot judge, or of this one that it was not let in, and nothing of the request."""
    return response.status_code >= 500 or response.status_code in {401, 403}


def _name_caller(request: httpx.Request) -> None:
    """Say for whom a service works; nobody is named outside of a request, or where callers are not told apart."""
    caller = current_caller()
    if caller.kind != "anonymous":
        request.headers[ON_BEHALF_OF] = caller.on_behalf_of or caller.id


def _continue_trace(request: httpx.Request) -> None:
    """Tie a request to the trace of whoever makes it."""
    request.headers["traceparent"] = traceparent()


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have a value."""
    return {name: value for name, value in query.items() if value is not None}
