"""Every route of every service asks its callers for what it declares: no credential 401, another scope 403, the right one passes."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.access import EVERY_SCOPE, Scope
from shared.access.key_records import KeyRecords
from shared.cli.supervisor import SERVICES
from shared.database import Database
from shared.http.access import OPEN_PATHS
from shared.http.migrations import migrate_embedded
from shared.settings import Settings
from tests.fixtures.apps import open_app

PAGE = Path(__file__).parent.parent / "docs" / "access.md"
# What the schema leaves out, with what it asks for.
UNLISTED = {"/metrics": "metrics:read", "/docs": None, "/openapi.json": None}


@dataclass(frozen=True)
class Entrance:
    """One method of one route, and the scope that it asks for (None: any valid credential)."""

    method: str
    path: str
    scope: str | None


@dataclass
class House:
    """A service that knows its callers, and a key for each scope alone and for all but that."""

    client: httpx.AsyncClient
    entrances: list[Entrance]
    only: dict[str, str]
    all_but: dict[str, str]
    expired: str
    revoked: str

    async def ask(self, entrance: Entrance, key: str | None) -> httpx.Response:
        """A request with nothing good in it but perhaps its key."""
        path = re.sub(r"\{[^}]*\}", "7", entrance.path)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body: Any = {} if entrance.method in {"POST", "PUT"} else None
        return await self.client.request(entrance.method, path, json=body, headers=headers)


def declared(schema: dict[str, Any]) -> list[Entrance]:
    """What a schema says of its routes; each operation must say something."""
    found = [Entrance("GET", path, scope) for path, scope in UNLISTED.items()]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            ((scheme, scopes),) = operation["security"][0].items()
            assert scheme == "bearer"
            found.append(Entrance(method.upper(), path, scopes[0] if scopes else None))
    return found


def key_for(records: KeyRecords, *scopes: Scope) -> str:
    """A key with these scopes."""
    return records.create(name="walker", scopes=scopes, lifetime=None).text


@asynccontextmanager
async def opened_house(service: str, home: Path) -> AsyncIterator[House]:
    """The real app of a service, authentication on, on an empty home."""
    settings = Settings(home=home, auth="on", torch_threads=1)
    with closing(Database.open(settings)) as database:
        migrate_embedded(database)
        records = KeyRecords.of(settings, database)
        only = {scope: key_for(records, scope) for scope in EVERY_SCOPE}
        all_but = {scope: key_for(records, *(EVERY_SCOPE - {scope})) for scope in EVERY_SCOPE}
        expired = records.create(name="walker", scopes=list(EVERY_SCOPE), lifetime=timedelta()).text
        revoked = records.create(name="walker", scopes=list(EVERY_SCOPE), lifetime=None)
        records.revoke(revoked.id)
    app = importlib.import_module(f"services.{service}.app").create_app(settings)
    async with open_app(app) as client:
        yield House(client, declared(app.openapi()), only, all_but, expired, revoked.text)


def reason_of(answer: httpx.Response) -> str:
    """Why a credential was refused."""
    found = re.search(r'error_description="([a-z-]+)"', answer.headers["WWW-Authenticate"])
    return found.group(1) if found else "missing"


@pytest.mark.parametrize("service", SERVICES)
async def test_every_route_asks_for_a_credential_and_its_scope(service: str, tmp_path: Path) -> None:
    async with opened_house(service, tmp_path) as house:
        assert len(house.entrances) > len(UNLISTED) + 1
        for entrance in house.entrances:
            for key, reason in ((None, "missing"), (house.expired, "expired"), (house.revoked, "revoked"), ("lethe_x", "malformed")):
                answer = await house.ask(entrance, key)
                assert (answer.status_code, reason_of(answer)) == (401, reason), entrance
            scope = entrance.scope or "read"
            if entrance.scope is not None:
                refused = await house.ask(entrance, house.all_but[scope])
                assert (refused.status_code, refused.json()["type"]) == (403, "urn:lethe:problem:forbidden"), entrance
                assert repr(scope) in refused.json()["detail"]
            assert (await house.ask(entrance, house.only[scope])).status_code in {200, 404, 409, 422}, entrance


@pytest.mark.parametrize("service", SERVICES)
async def test_what_is_open_tells_nothing_and_what_is_unknown_asks_first(service: str, tmp_path: Path) -> None:
    async with opened_house(service, tmp_path) as house:
        for path in OPEN_PATHS:
            answer = await house.client.get(path)
            assert answer.status_code == 200
            assert answer.json().keys() == {"status"}
        nowhere = Entrance("GET", "/v1/nowhere", None)
        assert [(await house.ask(nowhere, key)).status_code for key in (None, house.only["read"])] == [401, 404]


@pytest.mark.parametrize("service", SERVICES)
def test_page_tells_the_scope_of_every_route(service: str, tmp_path: Path) -> None:
    app = importlib.import_module(f"services.{service}.app").create_app(Settings(home=tmp_path))
    entrances = [entrance for entrance in declared(app.openapi()) if entrance.path.startswith("/v1/")]
    told = [(method, path, scope) for name, method, path, scope in rows() if name in {service, "all"}]
    assert sorted(told) == sorted((entrance.method, entrance.path, entrance.scope or "any") for entrance in entrances)


def rows() -> list[tuple[str, ...]]:
    """Service, method, path and scope of each row of the page's table."""
    row = r"^\| (\w+) \| (GET|POST|PUT) \| `(/v1/\S+)` \| `?([a-z:]+)`? \|"
    return re.findall(row, PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
