"""The monitoring blueprint: health checks, and metrics for Prometheus.

The metrics are those of all workers where PROMETHEUS_MULTIPROC_DIR names a folder that they share.
"""

import hmac
from collections.abc import Iterable
from pathlib import Path

from flask import Blueprint, Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from augu_api.detection import Detection, Detector
from augu_api.web import request_log
from augu_api.web.agents import Agents
from augu_api.web.auth import bearer_token
from augu_api.web.docs.examples import TOKEN, UNAVAILABLE
from augu_api.web.envelope import Failure, Refused, success
from augu_api.web.metric_files import SharedMetrics
from augu_api.web.operation import Content, Operation, enveloped
from augu_api.web.schemas import Live, Ready
from augu_api.web.service import service

REQUESTS = Counter("augu_requests", "Requests answered.", ["route", "status", "agent"])
LATENCY = Histogram("augu_request_seconds", "Seconds to answer a request.", ["route"])
DETECTION = Histogram("augu_detection_seconds", "Seconds to decode a photo and detect the objects in it.")
OBJECTS = Counter("augu_objects", "Objects returned.", ["name"])
REFUSALS = Counter("augu_refusals", "Requests refused.", ["reason"])
MODEL = Gauge("augu_model_info", "The loaded model.", ["model", "engine", "sha256"], multiprocess_mode="livemax")

HIDDEN = "Metrics are shown only if AUGU_METRICS_TOKEN is set."
monitoring = Blueprint("monitoring", __name__)


@monitoring.get("/health/live")
@Operation(replies=enveloped(Live, live=True))
def live() -> Response:
    """Check that the process responds."""
    return success(Live().dump({"live": True}))


@monitoring.get("/health/ready")
@Operation(
    replies=enveloped(
        Ready,
        model="bundled",
        engine="onnx",
        sha256="ecbbeda8a766dad62f0ae8e78a968e6fd90bcd77534e5d210b9cddef866ad800",
    ),
    failures=UNAVAILABLE,
)
def ready() -> Response:
    """Check that the model is loaded, and that the database and the rate limit storage respond."""
    facts = service.detector.facts
    service.check()
    return success(Ready().dump(facts))


@monitoring.get("/metrics")
@Operation(
    replies={
        "text/plain": Content(
            {"type": "string"},
            {"success": {"value": 'augu_requests_total{agent="curl",route="/session",status="200"} 3.0\n'}},
        )
    },
    failures=TOKEN | {"metrics": Failure(403, message=HIDDEN)},
)
def prometheus() -> Response:
    """Show the metrics of all workers as Prometheus text to the bearer of AUGU_METRICS_TOKEN."""
    expected = service.settings.metrics_token
    if not expected:
        raise Refused(Failure(403, "metrics", HIDDEN))
    if not hmac.compare_digest((bearer_token() or "").encode(), expected.encode()):
        raise Refused(Failure(401, "metrics"))
    return Response(exposition(service.settings.metrics_dir), content_type=CONTENT_TYPE_LATEST)


def register(app: Flask, metrics_dir: Path | None) -> None:
    """Count and time each reply."""
    agents = Agents(metrics_dir)
    app.after_request(lambda response: _measure(response, agents))


def describe(detector: Detector) -> None:
    """Expose the model that this process has loaded."""
    MODEL.labels(**detector.facts).set(1)


def observe(found: Iterable[Detection], milliseconds: float) -> None:
    """Count a detection and the objects that were returned."""
    DETECTION.observe(milliseconds / 1000)
    for detection in found:
        OBJECTS.labels(detection.name).inc()


def exposition(folder: Path | None) -> bytes:
    """All metrics in Prometheus' text format."""
    if folder is None:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    registry.register(SharedMetrics(folder))
    return generate_latest(registry)


def _measure(response: Response, agents: Agents) -> Response:
    route = request_log.route()
    agent = agents.label(request.headers.get("User-Agent", ""), may_be_new="user" in g)
    REQUESTS.labels(route, str(response.status_code), agent).inc()
    LATENCY.labels(route).observe(request_log.seconds())
    if reason := g.get("refusal"):
        REFUSALS.labels(reason).inc()
    return response
