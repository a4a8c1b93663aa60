"""An id and a line of the log for each request."""

import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_AGENT = 200  # characters of User-Agent in the log
logger = logging.getLogger("augu_api.requests")


def register(app: Flask) -> None:
    """Give each request an id, and log each reply."""
    app.before_request(_begin)
    app.after_request(_finish)


def route() -> str:
    """The rule that the request matched: a bounded set of texts, unlike its path."""
    return request.url_rule.rule if request.url_rule else "none"


def seconds() -> float:
    """The time since the request began."""
    return time.perf_counter() - float(g.started)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.started = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    user = g.get("user")
    line = {
        "id": g.request_id,
        "user": str(user.id) if user else None,
        "agent": request.headers.get("User-Agent", "")[:MAX_AGENT],
        "method": request.method,
        "route": route(),
        "status": response.status_code,
        "milliseconds": round(seconds() * 1000, 1),
    }
    logger.info("request", extra=line)
    return response
