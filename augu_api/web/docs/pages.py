"""The documentation blueprint: openapi.json, the page that shows it, and the page to try the endpoint by hand.

There is no build step, and nothing is loaded from another server. Links are relative, so that a proxy can serve all of
it under a path of a site.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Blueprint, Flask, Response, current_app, render_template, send_from_directory

from augu_api.flags import DEFAULT_FLAGS, Flag
from augu_api.store.quotas import REFUSALS_BEFORE_BAN
from augu_api.web.docs.openapi import specification
from augu_api.web.envelope import Failure, minified
from augu_api.web.operation import Operation, file_reply
from augu_api.web.service import service

KEY = "augu_api.docs"
LEADING = "images.objects"
ASSETS = Path(__file__).with_name("assets")
POLICY = (  # https://www.w3.org/TR/CSP3/
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
docs = Blueprint("docs", __name__, template_folder="templates")


class Documents(NamedTuple):
    """openapi.json, the page that shows it, and the page to try the endpoint."""

    openapi: str
    documentation: str
    page: str


def prepare(app: Flask) -> Documents:
    """Make the documents of an application that has all its routes.

    A server does this at its start; a process that serves nothing can do without.
    """
    with app.app_context():
        document = specification(app, service.loaded.names if service.loaded else ())
        page = render_template("index.html", max_pixels=service.settings.max_pixels)
        documents = app.extensions[KEY] = Documents(minified(document), _rendered(document), page)
    return documents


def _documents() -> Documents:
    return current_app.extensions.get(KEY) or prepare(current_app)


@docs.get("/")
@Operation(replies=file_reply("text/html", "./"))
def page() -> Response:
    """Show a page to try the endpoint by hand."""
    return _guarded(Response(_documents().page))


@docs.get("/docs")
@Operation(replies=file_reply("text/html", "docs"))
def documentation() -> Response:
    """Show what openapi.json says, to read and to try."""
    return _guarded(Response(_documents().documentation))


@docs.get("/assets/<name>")
@Operation(
    arguments={"name": "icon.svg"},
    replies=file_reply("*/*", "assets/icon.svg", {}),
    failures={"unknown": Failure(404)},
)
def asset(name: str) -> Response:
    """Send a file that the pages are made of."""
    return send_from_directory(ASSETS, name)


@docs.get("/openapi.json")
@Operation(replies=file_reply("application/json", "openapi.json", {"type": "object"}))
def openapi() -> Response:
    """Describe this API in OpenAPI 3.1."""
    return Response(_documents().openapi, mimetype="application/json")


def _guarded(page: Response) -> Response:
    """Set a Content-Security-Policy that allows only this service."""
    page.headers["Content-Security-Policy"] = POLICY
    return page


def _rendered(document: dict[str, Any]) -> str:
    """The document as a page: the endpoint for photos first, then the other operations that need a token."""
    operations = [
        operation | {"path": path, "method": method.upper()}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return render_template(
        "docs.html",
        document=document,
        operations=sorted(operations, key=lambda of: (of["operationId"] != LEADING, "security" not in of)),
        fields_of=lambda schema: _fields(document, schema),
        written=_written,
        flags=Flag,
        default_flags=DEFAULT_FLAGS,
        refusals=REFUSALS_BEFORE_BAN,
        ban_minutes=service.settings.ban_minutes,
    )


def _fields(document: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """A schema's properties and those within them, in the shape of parameters: `data.objects[].name`."""
    schema = _resolved(document, schema)
    fields = []
    for name, property_ in schema.get("properties", {}).items():
        inner, path = _resolved(document, property_), f"{prefix}{name}"
        fields.append({"name": path, "schema": inner, "required": name in schema.get("required", ())} | inner)
        fields += _fields(document, inner, f"{path}.") + _fields(document, inner.get("items", {}), f"{path}[].")
    return fields


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _written(value: Any, mimetype: str) -> str:
    """An example as it is sent."""
    if mimetype == "application/json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return value if isinstance(value, str) else urlencode(value)
