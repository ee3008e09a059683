"""Key records of a database of their own, and an identity provider that answers in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.access.key_records import KeyRecords
from shared.access.key_tables import ACCESS_SCHEMA
from shared.database import Database, prepare_schema
from shared.settings import Settings

ISSUER = "https://identity.example/realms/ward"
AUDIENCE = "lethe"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with the tables of keys."""
    opened = Database.open(Settings(home=tmp_path))
    prepare_schema(opened.engine, ACCESS_SCHEMA)
    yield opened
    opened.close()


@pytest.fixture
def records(database: Database) -> KeyRecords:
    """Key records with a pepper of their own."""
    return KeyRecords(database, pepper=b"p" * 32)


class Provider:
    """Signs tokens and serves its public keys, as an identity provider does."""

    def __init__(self) -> None:
        self.private: dict[str, Any] = {"rsa-1": rsa_key(), "ec-1": ec.generate_private_key(ec.SECP256R1())}
        self.asked = 0
        self.answer: Callable[[], httpx.Response] = lambda: httpx.Response(200, json=self.key_set())
        self.transport = httpx.MockTransport(self._serve)

    def key_set(self) -> dict[str, Any]:
        """The public keys."""
        return {"keys": [{**public_jwk(key), "kid": name, "use": "sig"} for name, key in self.private.items()]}

    def token(self, *, key: str = "rsa-1", algorithm: str | None = None, without: str = "", **claims: Any) -> str:
        """A token that is good for five minutes, with other claims where they are given."""
        now = int(time.time())
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "dr-grey", "iat": now, "exp": now + 300, "scope": "openid read score", **claims}
        said.pop(without, None)
        usual = "RS256" if key.startswith("rsa") else "ES256"
        return jwt.encode(said, self.private[key], algorithm=algorithm or usual, headers={"kid": key})

    def _serve(self, _request: httpx.Request) -> httpx.Response:
        self.asked += 1
        return self.answer()


@lru_cache
def rsa_key() -> rsa.RSAPrivateKey:
    """A private key, made once because it takes a while."""
    return rsa.generate_private_key(65537, 2048)


def public_jwk(private: Any) -> dict[str, Any]:
    """The public half of a key as JWK."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    document: dict[str, Any] = json.loads(algorithm.to_jwk(private.public_key()))
    return document


@pytest.fixture
def provider() -> Provider:
    """An identity provider with a key of each kind."""
    return Provider()
