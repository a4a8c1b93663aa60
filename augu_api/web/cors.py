"""Lets pages of other sites call the service from a browser: those of the origins that AUGU_CORS_ORIGINS lists.

https://fetch.spec.whatwg.org/#http-cors-protocol. The token is in a header that the page itself sets, so the browser
sends nothing of its own, and credentials are not allowed.
"""

from collections.abc import Collection

from flask import Flask, Response, request

METRICS = "/metrics"  # for Prometheus, not for pages
MAX_AGE = 7200  # seconds; Chromium keeps a preflight's reply no longer
EXPOSED = "X-Ratelimit-Limit, X-Ratelimit-Remaining, X-Ratelimit-Reset, X-Retry-After, Retry-After, X-Request-Id"
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id",
    "Access-Control-Max-Age": str(MAX_AGE),
}


def register(app: Flask, origins: Collection[str]) -> None:
    """Answer the preflights of these origins, and let them read each reply; without any, nothing changes."""
    if origins:
        app.before_request(lambda: _preflight(origins))
        app.after_request(lambda response: _share(response, origins))


def _preflight(origins: Collection[str]) -> Response | None:
    """204 without further checks, for any path: the page reads what is wrong from the reply to the request itself."""
    if not _listed(origins) or request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    response = Response(status=204, headers=PREFLIGHT)
    del response.headers["Content-Type"]
    return response


def _share(response: Response, origins: Collection[str]) -> Response:
    if request.path != METRICS:
        response.vary.add("Origin")
    if _listed(origins):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
    return response


def _listed(origins: Collection[str]) -> bool:
    return request.path != METRICS and request.headers.get("Origin") in origins
