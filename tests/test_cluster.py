"""Several real servers: gunicorn's workers, the databases, Redis and nginx; and the accuracy that a client gets."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from augu_api.client import Client
from augu_api.config import ROOT, Settings
from augu_api.detection import Detector
from augu_api.detection.catalogue import find
from tests.helpers import BIN, OBJECTS, free_port, wait_until
from tests.png_encoder import black
from tests.servers import Nginx, Reply, Serve, Server, add, call, photo, sockets, wait_for_all

METRICS_TOKEN = "a metrics token of 32 characters"


def metric(port: int, name: str) -> float:
    """The sum of the samples whose lines start with this text."""
    shown = call(port, "/metrics", token=METRICS_TOKEN).body.decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}.* ([0-9.e+]+)$", shown, re.MULTILINE))


# --- gunicorn


@pytest.mark.parametrize("storage", ["sqlite", "postgresql", "redis"])
def test_the_quota_is_exact(serve: Serve, tmp_path: Path, storage: str, request: pytest.FixtureRequest) -> None:
    """Of 88 requests that 8 clients make at once as one user to 4 workers, 48 pass; the metrics show all of them."""
    environ = {"WEB_CONCURRENCY": "4", "TMPDIR": str(tmp_path), "AUGU_METRICS_TOKEN": METRICS_TOKEN}
    if storage == "postgresql":
        environ["DATABASE_URL"] = request.getfixturevalue("postgres")
    elif storage == "redis":
        environ["AUGU_RATELIMIT_STORAGE"] = request.getfixturevalue("redis")
    server = serve(**environ)
    wait_for_all(server, tmp_path, 4)
    token = add(server)  # a new user's window begins with the first request
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(lambda _: call(server.port, "/session", token=token), range(88)))
    assert Counter(reply.status for reply in replies) == {200: 48, 429: 40}
    left = [int(reply.headers["X-Ratelimit-Remaining"]) for reply in replies]
    assert min(left) == 0
    assert max(left) <= 47
    assert metric(server.port, 'augu_requests_total{agent="other",route="/session",status="200"}') == 48
    assert metric(server.port, 'augu_requests_total{agent="other",route="/session",status="429"}') == 40
    assert metric(server.port, 'augu_refusals_total{reason="quota"}') == 40
    assert metric(server.port, "augu_model_info{") == 1
    server.stop()
    assert list(tmp_path.glob("augu-metrics-*")) == []


def test_a_killed_worker_is_replaced(serve: Serve) -> None:
    """When the only worker is killed, another one takes over, and the counts are still there."""
    server = serve(WEB_CONCURRENCY="1", AUGU_METRICS_TOKEN=METRICS_TOKEN)
    token = add(server)
    assert call(server.port, "/session", token=token).status == 200
    [killed] = server.workers
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in server.workers and server.is_ready())
    assert server.workers != []
    reply = call(server.port, "/session", token=token)
    assert (reply.status, reply.headers["X-Ratelimit-Remaining"]) == (200, "46")
    assert metric(server.port, 'augu_requests_total{agent="other",route="/session",status="200"}') == 2


# --- nginx in front


def test_through_nginx(serve: Serve, nginx: Nginx) -> None:
    """Through nginx, photos get objects, bad bodies get the envelope, and metrics are available only locally."""
    server = serve(WEB_CONCURRENCY="1", AUGU_METRICS_TOKEN=METRICS_TOKEN)
    port, token = nginx(server.port), add(server)
    for name, expected in (("astronaut", "person"), ("chelsea", "cat"), ("coffee", "cup")):
        reply = call(port, OBJECTS, photo(name), token)
        assert reply.status == 200
        assert expected in {item["name"] for item in reply.json["data"]["objects"]}
    for megabytes in (7, 9, 20):  # too large for the endpoint, for the application, for nginx
        reply = call(port, OBJECTS, b"A" * megabytes * 2**20, token)
        assert reply.status == 400
        assert (reply.json["statusCode"], reply.json["error"]) == (400, "Bad request")
        assert reply.json["message"] == "Invalid request body."
    assert call(port, "/metrics", token=METRICS_TOKEN).body.startswith(b"# HELP ")
    for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics", "/metrics?x=1"):
        reply = call(port, path, token=METRICS_TOKEN, source="127.0.0.2", X_Forwarded_For="127.0.0.1")
        assert (reply.status, reply.json["message"]) == (403, "Metrics are private.")
    assert call(port, "/session", token=token, source="127.0.0.2").status == 200


def is_protected(reply: Reply) -> bool:
    """Whether the headers forbid a browser to cache the reply or to guess its type."""
    return (reply.headers["Cache-Control"], reply.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("path", ["/", OBJECTS, "/metrics"])
def test_nginx_without_gunicorn(nginx: Nginx, path: str) -> None:
    """While no gunicorn answers, nginx sends 503 in the envelope with Retry-After."""
    reply = call(nginx(free_port()), path)
    assert reply.status == 503
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Retry-After"] == "1"
    assert is_protected(reply)
    assert list(reply.json) == ["statusCode", "error", "message"]
    assert (reply.json["statusCode"], reply.json["error"]) == (503, "Service Unavailable")


def test_anonymous_callers(nginx: Nginx) -> None:
    """Callers without a token get 429 in the envelope after a burst; callers with a token are not limited by nginx."""
    port = nginx(free_port())  # nothing needs to answer behind it
    replies = [call(port, "/health/live") for _ in range(60)]
    assert [reply.status for reply in replies[:20]] == [503] * 20
    held_back = [reply for reply in replies if reply.status == 429]
    assert len(held_back) >= 20
    for reply in held_back:
        assert (reply.headers["Retry-After"], reply.headers["X-Retry-After"]) == ("1", "1")
        assert (reply.json["statusCode"], reply.json["error"]) == (429, "Too Many Requests")
        assert is_protected(reply)
    assert {call(port, "/health/live", token="any").status for _ in range(60)} == {503}


BAD_REQUEST = {"statusCode": 400, "error": "Bad request", "message": "Invalid request body."}
NOT_ALLOWED = {"statusCode": 405, "error": "Method Not Allowed", "message": "This method is not allowed here."}
UNREADABLE = {
    "long path": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", BAD_REQUEST),
    "long header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", BAD_REQUEST),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
    "bad length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: no\r\n\r\n", BAD_REQUEST),
    "unknown coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", BAD_REQUEST),
    "unknown version": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", BAD_REQUEST),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", NOT_ALLOWED),
}


@pytest.mark.parametrize(("sent", "expected"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_requests(nginx: Nginx, sent: bytes, expected: dict[str, Any]) -> None:
    """Requests that nginx itself refuses get the envelope as well."""
    with socket.create_connection(("127.0.0.1", nginx(free_port())), timeout=30) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % expected["statusCode"])
    assert b"\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff" in head
    assert json.loads(body) == expected


# --- photos


def test_large_photos(serve: Serve) -> None:
    """A server accepts AUGU_MAX_PIXELS pixels without a warning, although Pillow's own limit is 89 million."""
    server = serve(AUGU_MAX_PIXELS="100000000", WEB_CONCURRENCY="1")
    assert Client(server.url, add(server)).objects(black(9_500)).objects == ()
    assert "Warning" not in server.log.read_text()


# --- accuracy


Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def coco(dev_photos: Path) -> COCO:
    """The labels of the photos."""
    with redirect_stdout(StringIO()):
        return COCO(dev_photos / "instances.json")


def result(coco: COCO, photo: int, name: str, box: tuple[float, float, float, float], score: float) -> dict[str, Any]:
    """A detection in COCO's format; the box as x, y, width and height."""
    [category] = coco.getCatIds([name])
    return {"image_id": photo, "category_id": category, "bbox": list(box), "score": score}


def results(coco: COCO, folder: Path, detect: Callable[[int, Image.Image], Results], at_once: int = 1) -> Results:
    """The detections of all photos, with up to `at_once` requests at a time."""

    def of(entry: dict[str, Any]) -> Results:
        with Image.open(folder / "images" / entry["file_name"]) as file:
            return detect(entry["id"], file.convert("RGB"))

    with ThreadPoolExecutor(at_once) as pool:
        return [found for each in pool.map(of, coco.dataset["images"]) for found in each]


def average_precision(coco: COCO, results: Results) -> float:
    """COCO's AP over all photos."""
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("engine", ["onnx", "torchvision"])
def test_accuracy(serve: Serve, coco: COCO, dev_photos: Path, engine: str) -> None:
    """A client gets the accuracy that model.json states, on both engines.

    It is stated to three decimals, and engines and coordinates in replies round as well: together less than 0.001.
    """
    server = serve(WEB_CONCURRENCY="2", AUGU_ENGINE=engine)
    api = Client(server.url, add(server, coefficient=1000))

    def detect(photo: int, image: Image.Image) -> Results:
        found = api.objects(image, min_score=0).objects
        return [result(coco, photo, item.name, (item.x, item.y, item.width, item.height), item.score) for item in found]

    replied = average_precision(coco, results(coco, dev_photos, detect, at_once=2))
    assert replied == pytest.approx(find("bundled", Settings()).ap, abs=0.001)


def test_accuracy_of_the_detector(bundled: Detector, coco: COCO, dev_photos: Path) -> None:
    """The detector itself has the accuracy that model.json states."""

    def detect(photo: int, image: Image.Image) -> Results:
        boxes = [(found, *found.box) for found in bundled.detect(np.asarray(image))]
        return [result(coco, photo, found.name, (x, y, x2 - x, y2 - y), found.score) for found, x, y, x2, y2 in boxes]

    itself = average_precision(coco, results(coco, dev_photos, detect))
    assert itself == pytest.approx(find("bundled", Settings()).ap, abs=0.001)


def test_workers_share_connections_fairly(serve: Serve, tmp_path: Path) -> None:
    """Each of two workers accepts half of twenty connections opened at once, so that no core is idle.

    Other programs may disturb half of the rounds; in the other half the differences add up to 4 at most.
    """
    server = serve(WEB_CONCURRENCY="2", TMPDIR=str(tmp_path))
    wait_for_all(server, tmp_path, 2)
    differences = sorted(difference_between_workers(server) for _ in range(30))
    assert sum(differences[:15]) <= 4, differences


def difference_between_workers(server: Server) -> int:
    """How many more of twenty new connections one of two workers accepts than the other."""
    wait_until(lambda: len({sockets(pid) for pid in server.workers}) == 1)  # no client is connected
    with ExitStack() as closing:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(20)]
        for connection in connections:
            connection.connect()
            closing.callback(connection.close)
        for connection in connections:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        first, second = (sockets(pid) for pid in server.workers)
    return abs(first - second)


def test_a_bad_setting_stops_the_start() -> None:
    """Gunicorn says in one line which setting cannot be used."""
    env = os.environ | {"AUGU_QUEUE": "none"}
    done = subprocess.run([BIN / "gunicorn"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: AUGU_QUEUE: must be a whole number above 0\n")
