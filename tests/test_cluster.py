"""Several real servers: gunicorn's workers, the databases, Redis and nginx; and the accuracy that a client gets."""

import http.client
import os
import re
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from augu_api.client import Client
from augu_api.config import ROOT, Settings
from augu_api.detection.catalogue import find
from tests.helpers import BIN, png_of, wait_until
from tests.png_encoder import black
from tests.servers import Serve, Server, add, call, sockets, wait_for_all

METRICS_TOKEN = "a metrics token of 32 characters"


def metric(port: int, name: str) -> float:
    """The sum of the samples whose lines start with this text."""
    shown = call(port, "/metrics", token=METRICS_TOKEN).body.decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}.* ([0-9.e+]+)$", shown, re.MULTILINE))


# --- gunicorn


@pytest.mark.parametrize("storage", ["sqlite", "postgresql", "redis"])
def test_the_quota_is_exact(
    serve: Serve, tiny_model: dict[str, str], tmp_path: Path, storage: str, request: pytest.FixtureRequest
) -> None:
    """Of 88 requests that 8 clients make at once as one user to 4 workers, 48 pass; the metrics show all of them."""
    environ = {"WEB_CONCURRENCY": "4", "TMPDIR": str(tmp_path), "AUGU_METRICS_TOKEN": METRICS_TOKEN}
    if storage == "postgresql":
        environ["DATABASE_URL"] = request.getfixturevalue("postgres")
    elif storage == "redis":
        environ["AUGU_RATELIMIT_STORAGE"] = request.getfixturevalue("redis")
    server = serve(**environ, **tiny_model)
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


def test_a_killed_worker_is_replaced(serve: Serve, tiny_model: dict[str, str]) -> None:
    """When the only worker is killed, another one takes over, and the counts are still there."""
    server = serve(WEB_CONCURRENCY="1", AUGU_METRICS_TOKEN=METRICS_TOKEN, **tiny_model)
    token = add(server)
    assert call(server.port, "/session", token=token).status == 200
    [killed] = server.workers
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in server.workers and server.is_ready())
    assert server.workers != []
    reply = call(server.port, "/session", token=token)
    assert (reply.status, reply.headers["X-Ratelimit-Remaining"]) == (200, "46")
    assert metric(server.port, 'augu_requests_total{agent="other",route="/session",status="200"}') == 2


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
    server = serve(WEB_CONCURRENCY="1", AUGU_ENGINE=engine)
    api = Client(server.url, add(server, coefficient=1000))

    def detected(entry: dict[str, Any]) -> Results:
        with Image.open(dev_photos / "images" / entry["file_name"]) as file:
            png = png_of(file.convert("RGB"), compress_level=1)
        items = api.objects(png, min_score=0).objects
        return [result(coco, entry["id"], i.name, (i.x, i.y, i.width, i.height), i.score) for i in items]

    with ThreadPoolExecutor(2) as pool:
        replied = [found for each in pool.map(detected, coco.dataset["images"]) for found in each]
    assert average_precision(coco, replied) == pytest.approx(find("bundled", Settings()).ap, abs=0.001)


def test_workers_share_connections_fairly(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """Each of two workers accepts half of twenty connections opened at once, so that no core is idle.

    Other programs may disturb half of the rounds; in the other half the differences add up to 4 at most.
    """
    server = serve(WEB_CONCURRENCY="2", TMPDIR=str(tmp_path), **tiny_model)
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
