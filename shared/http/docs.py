"""/docs: the routes of a service on one self-contained page, since Swagger's own page loads scripts from a public network."""

from __future__ import annotations

from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from shared.http.access import requires

_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .8rem;border-bottom:1px solid #ddd}}
code{{font:14px ui-monospace,monospace}}</style></head>
<body><h1>{title}</h1><p>Version {version}. The machine-readable contract is <a href="openapi.json">openapi.json</a>.</p>
<table><tr><th>Method</th><th>Route</th><th>What it does</th></tr>
{rows}
</table></body></html>
"""


def docs_routes() -> APIRouter:
    """The page at /docs."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs", dependencies=[requires(None)])
    def docs(request: Request) -> HTMLResponse:
        """The routes, read from the schema."""
        return HTMLResponse(_render(request.app.openapi()), headers=_HEADERS)

    return router


def _render(schema: dict[str, Any]) -> str:
    """The page of a schema."""
    rows = [
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td><td>{escape(route.get('summary', ''))}</td></tr>"
        for path, methods in schema.get("paths", {}).items()
        for method, route in methods.items()
    ]
    return _PAGE.format(title=escape(schema["info"]["title"]), version=escape(schema["info"]["version"]), rows="\n".join(rows))
