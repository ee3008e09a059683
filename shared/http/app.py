"""The one way in which a service's app is made: state, problems, limits, health, metrics and contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, closing
from typing import Any, Final, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from shared.access.authenticator import Authenticator
from shared.auditing import prompt_marks
from shared.database import Database
from shared.http import idempotency, paging
from shared.http.access import Requirement, declare_access, guarded_routes, requires
from shared.http.authentication import Admission, Authentication
from shared.http.docs import docs_routes
from shared.http.handlers import install_problem_handlers
from shared.http.health import health_routes
from shared.http.kept_answers import forgetting
from shared.http.limits import BodyLimit, HeadLimit
from shared.http.metrics import RequestObserver
from shared.http.migrations import migrate_embedded, reasons_to_migrate
from shared.http.problems import PROBLEM_MEDIA_TYPE, Problem
from shared.http.recording import Counting, Ledger, Recording
from shared.http.state import Draining, read_state
from shared.kept_keys import kept_key
from shared.settings import Settings
from shared.telemetry import lethe_version, publish_build_info

StateT = TypeVar("StateT")

# Besides those of API keys and of the audit log, which are read when these are opened.
_KEY_FILES: Final = (prompt_marks.KEY_FILE, paging.KEY_FILE, idempotency.KEY_FILE)

_PROBLEM_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
# Declared on every route; naming 422 here replaces FastAPI's own shape of it.
_PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": description, "content": {PROBLEM_MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA}}}
    for status, description in {
        400: "Unreadable",
        401: "No credential, or none that is valid",
        403: "Not allowed",
        404: "Not found",
        405: "Method not allowed",
        408: "Not sent in time",
        409: "In conflict with the present state",
        413: "Body too large",
        415: "Body is not plain JSON",
        422: "Against the schema",
        429: "More than the quota leaves",
        431: "Head too large",
        500: "A defect, or stored bytes that do not match their digest",
        503: "Saturated, or a dependency is away",
    }.items()
}


class ServiceInfo(BaseModel):
    """Who answers here."""

    service: str = Field(description="The service's name.")
    version: str = Field(description="The installed version of Lethe.")
    contract: str = Field(description="The version of the HTTP contract.")


def create_app(
    *,
    service: str,
    settings: Settings,
    routers: Sequence[APIRouter],
    lifespan: Callable[[Settings], AbstractAsyncContextManager[StateT]],
    state_type: type[StateT],
    ready: Callable[[StateT], list[str]],
    upload_paths: Sequence[str] = (),
) -> FastAPI:
    """The app of a service.

    `lifespan` makes the service's state and closes it; `ready` answers, on a thread, why the service should get no work;
    bodies below `upload_paths` may be as large as LETHE_UPLOAD_LIMIT_BYTES.
    """

    @asynccontextmanager
    async def with_state(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        """Keep the service's state, the database that readiness asks, and who tells callers apart, where requests find them."""
        for name in _KEY_FILES:
            kept_key(settings.keys_folder / name)  # told now where a folder of secrets, in which none can be made, lacks one
        with closing(Database.open(settings)) as database:
            migrate_embedded(database)
            opened = Authenticator.open(settings, database)
            async with aclosing(opened) as authenticator, forgetting(database):
                # Closed after the state: jobs go back to the queue in time, though a store that hangs takes no last anchor.
                with Ledger.serving(service, settings, database) as ledger:
                    async with lifespan(settings) as state:
                        publish_build_info()
                        yield {"service": state, "database": database, "authenticator": authenticator, "ledger": ledger}
                        await ledger.settled()

    def check_ready(request: Request) -> list[str]:
        """Ask the database whether it takes writes, its tables are there and the audit log can go on, then the service with its state."""
        request.state.database.check_writes()
        if reasons := reasons_to_migrate(request.state.database):
            return reasons
        request.state.ledger.writer.log.check()
        return ready(read_state(request, state_type))

    every_router = (health_routes(ready=check_ready), docs_routes(), _info_routes(service), *routers)
    guarded = guarded_routes(every_router)
    app = FastAPI(
        title=f"Lethe {service}",
        version=lethe_version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a path is a route's or nobody's
        lifespan=with_state,
        responses=_PROBLEM_RESPONSES,
    )
    app.state.draining = Draining()
    app.state.service = service
    app.state.settings = settings
    install_problem_handlers(app)
    app.add_middleware(
        BodyLimit, limit_bytes=settings.body_limit_bytes, upload_limit_bytes=settings.upload_limit_bytes, upload_paths=upload_paths
    )
    app.add_middleware(Admission, guarded=guarded)
    app.add_middleware(Counting)
    app.add_middleware(Authentication, required=settings.auth == "on")
    app.add_middleware(Recording, guarded=guarded)
    app.add_middleware(HeadLimit)
    app.add_middleware(RequestObserver)  # added last, hence outermost
    for router in every_router:
        app.include_router(router)
    app.openapi = _openapi_of(app, guarded)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def _info_routes(service: str) -> APIRouter:
    """Discovery."""
    router = APIRouter(tags=["discovery"])

    @router.get("/v1/info", summary="Which service this is", dependencies=[requires(None)])
    async def info() -> ServiceInfo:
        """Which service answers, and in which version."""
        return ServiceInfo(service=service, version=lethe_version(), contract="v1")

    return router


def _openapi_of(app: FastAPI, guarded: Sequence[tuple[APIRoute, Requirement]]) -> Callable[[], dict[str, Any]]:
    """FastAPI's schema, with the problem that all routes refer to, and what each asks of its callers."""

    def openapi() -> dict[str, Any]:
        """The schema, made once."""
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            components |= problem.pop("$defs", {}) | {"Problem": problem}
            declare_access(schema, guarded)
            _require_tags(schema, components)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def _require_tags(schema: Any, components: dict[str, Any]) -> None:
    """Say that what tells the parts of a union apart must be there: a default hides that, and makes none of them the right one."""
    if isinstance(schema, list):
        for inner in schema:
            _require_tags(inner, components)
    if not isinstance(schema, dict):
        return
    if isinstance(tag := schema.get("discriminator"), dict) and "mapping" in tag:
        for reference in tag["mapping"].values():
            part = components[reference.rpartition("/")[2]]
            part["required"] = sorted({*part.get("required", ()), tag["propertyName"]})
    for inner in list(schema.values()):
        _require_tags(inner, components)
