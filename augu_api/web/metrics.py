"""What is counted for Prometheus, across all workers where PROMETHEUS_MULTIPROC_DIR names a folder they share."""

import fcntl
import re
import tempfile
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from augu_api.detection import Detection, Detector

REQUESTS = Counter("augu_requests", "Requests answered.", ["route", "status", "agent"])
LATENCY = Histogram("augu_request_seconds", "Seconds to answer a request.", ["route"])
DETECTION = Histogram("augu_detection_seconds", "Seconds to decode a photo and detect the objects in it.")
OBJECTS = Counter("augu_objects", "Objects returned.", ["name"])
REFUSALS = Counter("augu_refusals", "Requests refused.", ["reason"])
MODEL = Gauge("augu_model_info", "What detects.", ["model", "engine", "sha256"], multiprocess_mode="max")

MAX_AGENTS = 50
OTHER = "other"
PRODUCT = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,40}(?=[/ ]|$)")


def describe(detector: Detector) -> None:
    """Say what detects in this process."""
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
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def product(user_agent: str) -> str:
    """The first product name of User-Agent, plain ASCII, or `other` if it has none of a sane length."""
    found = PRODUCT.match(user_agent)
    return found[0] if found else OTHER


class Agents:
    """Labels for requesters: the first product name of User-Agent, at most 50 in all workers, then `other`.

    The names are kept in a file of the workers' shared folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = (folder / "agents").open("a+") if folder else tempfile.TemporaryFile("a+")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def label(self, user_agent: str, *, may_be_new: bool) -> str:
        """The label for a User-Agent; only a caller who `may_be_new` can add one."""
        name = product(user_agent)
        if name not in self._known and may_be_new and len(self._known) < MAX_AGENTS:
            self._add(name)
        return name if name in self._known else OTHER

    def _add(self, name: str) -> None:
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.seek(0)
            self._known = set(self._file.read().split())
            if name not in self._known and len(self._known) < MAX_AGENTS:
                self._file.write(f"{name}\n")
                self._file.flush()
                self._known.add(name)
            fcntl.flock(self._file, fcntl.LOCK_UN)
