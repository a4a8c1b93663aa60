"""Faults of real servers: a killed worker, a stopped database, a wrong clock, a full disk, a damaged file."""

import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from limits.errors import StorageError
from limits.storage import RedisStorage
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from augu_api.config import ROOT, Settings
from augu_api.store import database
from augu_api.store.models import User
from augu_api.store.quotas import Quotas
from tests.helpers import BIN, OBJECTS, answers, free_port, missing, needed, wait_until
from tests.servers import Postgres, Redis, Reply, Serve, Server, accepted, add, call, photo, wait_for_all

METRICS_TOKEN = "a metrics token of 32 characters"
GRACE = 30  # seconds that gunicorn.conf.py gives accepted requests

Outcome = int | type[Exception]


@contextmanager
def load(server: Server, token: str, clients: int = 4) -> Iterator[list[Outcome]]:
    """Clients that request /session in a loop, each time on a new connection; yields the outcome of each request."""
    outcomes: list[Outcome] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                outcomes.append(call(server.port, "/session", token=token).status)
            except (OSError, http.client.HTTPException) as error:
                outcomes.append(type(error))
                over.wait(0.01)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    yield outcomes
    over.set()
    for thread in threads:
        thread.join()


def reply_of(connection: http.client.HTTPConnection) -> dict[str, Any]:
    """The JSON of a reply, whose status must be 200."""
    response = connection.getresponse()
    assert response.status == 200
    body: dict[str, Any] = json.load(response)
    connection.close()
    return body


def is_unavailable(reply: Reply) -> bool:
    """Whether the reply is 503 in the envelope with Retry-After."""
    return (
        (reply.status, reply.headers["Retry-After"]) == (503, "1")
        and list(reply.json) == ["statusCode", "error", "message"]
        and reply.json["error"] == "Service Unavailable"
    )


# --- processes


def test_a_worker_is_killed_under_load(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """The others continue, a new one starts, and counts are exact except for requests that got no reply."""
    server = serve(WEB_CONCURRENCY="2", TMPDIR=str(tmp_path), **tiny_model)
    wait_for_all(server, tmp_path, 2)
    cap, clients = 300, 4
    token = add(server, coefficient=cap / 60)
    before = set(server.workers)
    killed = min(before)
    with load(server, token, clients) as outcomes:
        wait_until(lambda: len(outcomes) > 50)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: 429 in outcomes)
    passed = outcomes.count(200)
    lost = sum(not isinstance(outcome, int) for outcome in outcomes)
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= {200, 429, 403}
    assert lost <= clients
    assert cap - lost <= passed <= cap
    wait_until(lambda: killed not in server.workers and len(server.workers) == 2)
    assert len(set(server.workers) - before) == 1
    wait_for_all(server, tmp_path, 2)


def test_a_stop_under_load(serve: Serve) -> None:
    """Accepted requests are answered, later ones are refused at once, and the server exits in time without an error.

    No reply is cut off.
    """
    server = serve(WEB_CONCURRENCY="1")
    users, body = [add(server, f"user-{n}", coefficient=1000) for n in range(5)], photo("astronaut")
    with load(server, users[0]) as outcomes:
        wait_until(lambda: len(outcomes) > 20)
        connections = [accepted(server.port, token, body) for token in users]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(server.port))
        for sending in (connections[:1], connections[1:]):  # one alone, then the others at once
            for connection in sending:
                connection.send(body)
            for connection in sending:
                assert reply_of(connection)["data"]["objects"][0]["name"] == "person"
        assert server.process.wait(GRACE) == 0
        refused = len(outcomes)
        wait_until(lambda: len(outcomes) > refused + 20)
    assert set(outcomes[:20]) == {200}
    assert set(outcomes) <= {200, ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected}
    assert set(outcomes[refused + 5 :]) == {ConnectionRefusedError}


# --- the database and the storage of the counts


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for this test only."""
    server = Postgres.made()
    yield server
    server.remove()


def survives(server: Server, stop: Callable[[], None], start: Callable[[], None]) -> None:
    """While a storage is stopped no request passes and the service is live but not ready; then it recovers."""
    token, workers, body = add(server), server.workers, photo("coffee")
    assert call(server.port, OBJECTS, body, token).status == 200
    stop()
    for _ in range(3):  # connections of the pool that are dead, and new ones
        assert is_unavailable(call(server.port, "/session", token=token))
        assert is_unavailable(call(server.port, OBJECTS, body, token))
        assert call(server.port, "/health/ready").status == 503
        assert call(server.port, "/health/live").status == 200
    start()
    wait_until(lambda: call(server.port, "/session", token=token).status == 200)
    assert call(server.port, OBJECTS, body, token).status == 200
    assert server.is_ready()
    assert server.workers == workers


def test_the_database_is_down_for_a_while(serve: Serve, own_postgres: Postgres) -> None:
    """While PostgreSQL is stopped the replies are 503 in the envelope; afterwards no restart is needed."""
    server = serve(WEB_CONCURRENCY="1", DATABASE_URL=own_postgres.url)
    survives(server, own_postgres.stop, own_postgres.start)
    assert "Traceback" not in server.log.read_text()


def test_connections_that_the_database_has_closed(postgres: str) -> None:
    """Connections that PostgreSQL closed while they were idle are replaced, and no query fails."""
    engine = database.connect(postgres.replace("postgresql:", "postgresql+psycopg:"))
    asked = select(func.pg_backend_pid())
    try:
        with engine.connect() as first, engine.connect() as second:
            backends = [first.scalar(asked), second.scalar(asked)]
        with needed("psycopg").connect(postgres, autocommit=True) as other:
            for backend in backends:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        with engine.connect() as first, engine.connect() as second:
            assert not {first.scalar(asked), second.scalar(asked)} & set(backends)
    finally:
        engine.dispose()


def test_a_worker_dies_while_the_database_is_down(
    serve: Serve, tiny_model: dict[str, str], own_postgres: Postgres, tmp_path: Path
) -> None:
    """The other worker continues and replacements fail; once PostgreSQL is back, one starts in the same server."""
    server = serve(WEB_CONCURRENCY="2", DATABASE_URL=own_postgres.url, TMPDIR=str(tmp_path), **tiny_model)
    wait_for_all(server, tmp_path, 2)
    token, [killed, other] = add(server), server.workers
    own_postgres.stop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: server.log.read_text().count("Error: The database cannot be used") >= 2)
    assert is_unavailable(call(server.port, "/session", token=token))
    own_postgres.start()
    wait_until(lambda: call(server.port, "/session", token=token).status == 200)
    wait_until(lambda: len(server.workers) == 2)
    assert other in server.workers
    assert server.is_ready()
    assert "exited with code 1." in server.log.read_text()  # with another exit code gunicorn itself may stop
    assert "Traceback" not in server.log.read_text()


def test_redis_is_down_for_a_while(serve: Serve, redis_server: Redis) -> None:
    """While Redis is stopped every request gets 503, never an uncounted pass; afterwards no restart is needed."""
    server = serve(WEB_CONCURRENCY="1", AUGU_RATELIMIT_STORAGE=redis_server.url)
    survives(server, redis_server.stop, redis_server.start)
    assert "Traceback" not in server.log.read_text()


# --- the clock

CLOCK = """
import os, time
from pathlib import Path
from typing import Any
clock, real = Path(os.environ["CLOCK"]), time.time
time.time = lambda: real() + int(clock.read_text() or 0)
"""


def test_the_clock_goes_back(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """If the clock is set back, the count is kept, and the window ends within 60 seconds of the new time."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK)  # every Python process imports it at startup
    server = serve(WEB_CONCURRENCY="2", PYTHONPATH=str(tmp_path), CLOCK=str(clock), **tiny_model)
    token = add(server, coefficient=0.5)

    def left_at(offset: int) -> tuple[int, int]:
        clock.write_text(str(offset))
        reply = call(server.port, "/session", token=token)
        assert 0 < int(reply.headers["X-Ratelimit-Reset"]) <= 60
        return reply.status, int(reply.headers["X-Ratelimit-Remaining"])

    assert left_at(0) == (200, 29)
    assert left_at(-3600) == (200, 28)
    for expected in range(27, -1, -1):
        assert left_at(-3600) == (200, expected)
    assert left_at(-7200) == (429, 0)
    assert left_at(-7139) == (200, 29)
    assert server.is_ready()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a server that accepts connections and never sends anything, like a machine that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_silent_database_times_out(silent_port: int) -> None:
    """Connecting to a database that does not reply fails after the timeout."""
    url = f"postgresql+psycopg://augu@127.0.0.1:{silent_port}/augu?connect_timeout=2"  # libpq's minimum
    engine = database.connect(url)
    with pytest.raises(OperationalError, match="timeout"), engine.connect():
        pass


def test_a_silent_redis_times_out(silent_port: int, settings: Settings) -> None:
    """Counting in a Redis that does not reply fails with a StorageError, which becomes 503."""
    url = f"redis://127.0.0.1:{silent_port}?socket_timeout=0.2"
    quotas = Quotas(database.connect(settings.database_url), url, 10)
    with pytest.raises(StorageError, match="Timeout"):
        quotas.count(User(id=1, coefficient=1))


@pytest.mark.parametrize(("query", "seconds"), [("", "5"), ("?connect_timeout=20", "20")])
def test_the_url_may_set_the_timeout(query: str, seconds: str) -> None:
    """The timeout is five seconds, unless DATABASE_URL sets libpq's own option."""
    engine = database.connect(f"postgresql+psycopg://augu@127.0.0.1:{free_port()}/augu{query}")
    options = engine.dialect.create_connect_args(engine.url)[1]
    for listener in engine.dialect.dispatch.do_connect:
        listener(engine.dialect, None, [], options)
    assert options["connect_timeout"] == seconds


@pytest.mark.parametrize(("query", "seconds"), [("", 5), ("?socket_timeout=20&socket_connect_timeout=20", 20)])
def test_the_url_of_redis_may_set_the_timeout(query: str, seconds: int, settings: Settings) -> None:
    """The timeouts are five seconds, unless AUGU_RATELIMIT_STORAGE sets the client's own options."""
    quotas = Quotas(database.connect(settings.database_url), f"redis://127.0.0.1:{free_port()}{query}", 10)
    assert isinstance(quotas.storage, RedisStorage)
    options = quotas.storage.storage.connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (seconds, seconds)


# --- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        missing("the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk with a file."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def test_the_disk_is_full(serve: Serve, small_disk: Path) -> None:
    """Requests get 503 and the command line says why; nothing is damaged, and freeing space is enough to recover."""
    data = small_disk / "data"
    server = serve(WEB_CONCURRENCY="1", AUGU_DATA_DIR=str(data))
    token = add(server, coefficient=1000)
    before = call(server.port, "/session", token=token)
    assert before.status == 200
    filling = fill(small_disk)
    wait_until(lambda: call(server.port, "/session", token=token).status != 200)
    for _ in range(20):
        assert is_unavailable(call(server.port, "/session", token=token))
        assert is_unavailable(call(server.port, OBJECTS, b"x", token))
    regenerate = [str(BIN / "augu-api"), "tokens", "regenerate", "alice"]
    done = subprocess.run(regenerate, env=server.env, capture_output=True, text=True, check=False)
    unsaved = done.stdout.strip()  # printed before the disk was found to be full
    assert (done.returncode, bool(unsaved)) == (1, True)
    assert done.stderr == "Error: The database cannot be used: database or disk is full\n"
    empty = server.env | {"AUGU_DATA_DIR": str(small_disk / "another")}
    done = subprocess.run([BIN / "augu-api", "users", "list"], env=empty, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr
    filling.unlink()
    after = call(server.port, "/session", token=token)
    assert (after.status, after.json) == (200, before.json)
    assert call(server.port, "/session", token=unsaved).status == 401
    server.run("users", "ban", "alice")
    assert call(server.port, "/session", token=token).status == 403
    assert "Traceback" not in server.log.read_text()
    server.stop()
    with closing(sqlite3.connect(data / "augu.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    subprocess.run([BIN / "augu-api", "users", "list"], env=empty, check=True, stdout=subprocess.DEVNULL)


# --- the folder of the metrics


def metric(server: Server, start: str) -> float:
    """The sum of the samples that /metrics shows whose lines start with this text."""
    shown = call(server.port, "/metrics", token=METRICS_TOKEN)
    assert shown.status == 200
    lines = [line for line in shown.body.decode().splitlines() if line.startswith(start)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


LIVE = 'augu_requests_total{agent="other",route="/health/live"'


def check_health(server: Server, times: int) -> None:
    for _ in range(times):
        assert call(server.port, "/health/live").status == 200


def replace(server: Server, worker: int) -> None:
    """Kill a worker and wait until another one serves in its place."""
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in server.workers and server.is_ready())


def reload(server: Server, worker: int) -> None:
    """Let the server replace a worker by one that starts before the first ends."""
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: worker not in server.workers and server.is_ready())


def test_the_metrics_folder_is_removed(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """A cleaner that removes the folder, or all temporary files, costs neither a reply, nor a worker, nor a count."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    server = serve(WEB_CONCURRENCY="1", TMPDIR=str(temporary), AUGU_METRICS_TOKEN=METRICS_TOKEN, **tiny_model)
    check_health(server, 5)
    for removed in (*temporary.glob("augu-metrics-*"), temporary):
        before = server.workers
        shutil.rmtree(removed)
        assert metric(server, "augu_") >= 0
        wait_until(lambda: metric(server, LIVE) >= 5)
        assert metric(server, "augu_model_info{") == 1
        assert server.workers == before
        replace(server, before[0])
        assert metric(server, LIVE) >= 5
        assert metric(server, "augu_model_info{") == 1
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def test_dead_workers_leave_no_files(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """However many workers die or are replaced, their counts remain and the number of files does not grow."""
    server = serve(WEB_CONCURRENCY="1", TMPDIR=str(tmp_path), AUGU_METRICS_TOKEN=METRICS_TOKEN, **tiny_model)
    numbers = set()
    for turn in range(1, 4):
        check_health(server, 5)
        assert metric(server, LIVE) == 5 * turn
        numbers.add(len(list(tmp_path.glob("augu-metrics-*/*"))))
        if turn == 2:
            reload(server, server.workers[0])
        else:
            replace(server, server.workers[0])
    check_health(server, 5)
    assert metric(server, LIVE) == 20
    assert metric(server, "augu_model_info{") == 1
    assert max(numbers) <= min(numbers) + 2  # the counters and the histograms of a second worker at once


def test_two_servers_share_a_folder_for_metrics(serve: Serve, tiny_model: dict[str, str], tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR is where the metrics are; servers that share it neither mix nor remove each other's."""
    folder = tmp_path / "metrics"
    given = tiny_model | {
        "WEB_CONCURRENCY": "1",
        "AUGU_METRICS_TOKEN": METRICS_TOKEN,
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "TMPDIR": str(tmp_path),
    }
    one = serve(**given)
    check_health(one, 3)
    two = serve(**given)
    check_health(two, 4)
    assert (metric(one, LIVE), metric(two, LIVE)) == (3, 4)
    one.run("users", "list")
    assert len(list(folder.iterdir())) == 2
    assert list(tmp_path.glob("augu-metrics-*")) == []
    two.stop()
    assert len(list(folder.iterdir())) == 1
    assert metric(one, LIVE) == 3
    one.stop()
    assert list(folder.iterdir()) == []


def test_the_disk_of_the_metrics_is_full(serve: Serve, tiny_model: dict[str, str], small_disk: Path) -> None:
    """Workers go on serving and counting; one that finds no space starts all the same, and says that it has none."""
    given = tiny_model | {"AUGU_METRICS_TOKEN": METRICS_TOKEN, "PROMETHEUS_MULTIPROC_DIR": str(small_disk)}
    server = serve(WEB_CONCURRENCY="1", **given)
    [worker] = server.workers
    token = add(server, coefficient=1000)
    fill(small_disk)
    for number in range(60):
        agent: dict[str, Any] = {"User-Agent": f"bot{number}"}  # a name that cannot be kept is counted as another
        assert call(server.port, "/session", token=token, **agent).status == 200
    assert metric(server, 'augu_requests_total{agent="other",route="/session"') == 60
    assert server.workers == [worker]
    replace(server, worker)
    assert metric(server, 'augu_requests_total{agent="other",route="/session"') == 60
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "metrics cannot be shared: [Errno 28] No space left on device" in server.log.read_text())
    wait_until(server.is_ready)
    assert call(server.port, "/metrics", token=METRICS_TOKEN).status == 200
    assert "Traceback" not in server.log.read_text()


# --- the model's files


def truncate(path: Path) -> None:
    os.truncate(path, 1_000_000)


def alter(path: Path) -> None:
    """Change one byte of a weight."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [truncate, alter],
)
def test_a_damaged_model_stops_the_start(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """The server exits with one line that names the damaged file and the remedy."""
    for name in ("model.json", "model.pth", "model.onnx"):
        shutil.copy(ROOT / "weights" / name, tmp_path)
    spoil(tmp_path / "model.onnx")
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path), "AUGU_MODEL": str(tmp_path), "AUGU_ENGINE": "onnx"}
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{free_port()}", "--workers", "1"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if "Error: " in line]
    assert f"Error: {tmp_path / 'model.onnx'} is damaged" in line
    assert "restore the file" in line
    assert "Traceback" not in done.stderr
