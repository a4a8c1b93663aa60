"""The documentation blueprint: openapi.json, and the page to try the endpoint by hand.

The pages are files of `assets/`, as they are: no build step, and nothing comes from anywhere else.
"""

from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, send_from_directory

from augu_api.openapi import specification

ASSETS = Path(__file__).with_name("assets")
POLICY = "; ".join(  # https://www.w3.org/TR/CSP3/
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
docs = Blueprint("docs", __name__)


@docs.get("/")
def page() -> Response:
    """Show a page to try the endpoint by hand."""
    return _page("index.html")


@docs.get("/assets/<name>")
def asset(name: str) -> Response:
    """Send a file that the pages are made of."""
    return send_from_directory(ASSETS, name)


@docs.get("/openapi.json")
def openapi() -> Response:
    """Describe this API in OpenAPI 3.1."""
    return jsonify(specification(current_app))


def _page(name: str) -> Response:
    """A page that may load its own files and call this service, and nothing else."""
    response = send_from_directory(ASSETS, name)
    response.headers["Content-Security-Policy"] = POLICY
    return response
