"""For operators: request ids, a log line for each request, health and metrics."""

import hmac
import logging
import re
import time
import uuid

from flask import Blueprint, Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST

from augu_api.web import metrics
from augu_api.web.auth import bearer_token
from augu_api.web.envelope import Refused, success
from augu_api.web.schemas import Live, Ready
from augu_api.web.service import service

ops = Blueprint("ops", __name__)
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
logger = logging.getLogger("augu_api.requests")


def register(app: Flask, agents: metrics.Agents) -> None:
    """Give each request an id, and log and count each reply."""
    app.before_request(_begin)
    app.after_request(_name_and_log)
    app.after_request(lambda response: _measure(response, agents))


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.started = time.perf_counter()


def _name_and_log(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    user = g.get("user")
    logger.info(
        "request",
        extra={
            "id": g.request_id,
            "user": str(user.id) if user else None,
            "agent": request.headers.get("User-Agent", "")[:200],
            "method": request.method,
            "route": _route(),
            "status": response.status_code,
            "milliseconds": round((time.perf_counter() - g.started) * 1000, 1),
        },
    )
    return response


def _measure(response: Response, agents: metrics.Agents) -> Response:
    agent = agents.label(request.headers.get("User-Agent", ""), may_be_new="user" in g)
    metrics.REQUESTS.labels(_route(), str(response.status_code), agent).inc()
    metrics.LATENCY.labels(_route()).observe(time.perf_counter() - g.started)
    if reason := g.get("refusal"):
        metrics.REFUSALS.labels(reason).inc()
    return response


def _route() -> str:
    return request.url_rule.rule if request.url_rule else "none"


@ops.get("/health/live")
def live() -> Response:
    """Say that the process answers."""
    return success(Live().dump({"live": True}))


@ops.get("/health/ready")
def ready() -> Response:
    """Say that the model is loaded and the database answers."""
    facts = service.detector.facts
    if not service.answers():
        raise Refused(503, "unavailable", retry_after=1)
    return success(Ready().dump(facts))


@ops.get("/metrics")
def prometheus() -> Response:
    """Show the metrics of all workers as Prometheus text to the bearer of AUGU_METRICS_TOKEN."""
    expected = service.settings.metrics_token
    if not expected:
        raise Refused(403, "metrics", "Metrics are shown only if AUGU_METRICS_TOKEN is set.")
    if not hmac.compare_digest((bearer_token() or "").encode(), expected.encode()):
        raise Refused(401, "metrics")
    return Response(metrics.exposition(service.settings.metrics_dir), content_type=CONTENT_TYPE_LATEST)
