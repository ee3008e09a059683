"""Pages for people: one HTML file each, that loads nothing and that nothing keeps."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}
"""A page may show films of patients: it loads nothing, and nothing keeps it."""


def page_template(name: str) -> Template:
    """A template of the trainer's: everything put into it is escaped, and what it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("services.trainer"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"whole": lambda count: f"{count:,}"}
    return environment.get_template(name)
