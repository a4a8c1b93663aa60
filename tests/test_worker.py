"""The gunicorn worker: slow clients, clients that disconnect, and how a worker stops."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # gunicorn has no types

from augu_api.config import ROOT
from augu_api.operating.shares import STALE_SECONDS, Shares
from augu_api.operating.worker import FairWorker
from tests.helpers import BIN, OBJECTS, picture, png_of, wait_until
from tests.servers import Serve, Server, add, add_another, call, photo, sockets

THREADS = 12


class ShortTimeouts(FairWorker):
    """Gives slow clients less time than the worker that serves, so that the tests need not wait."""

    read_seconds = 2.0
    write_seconds = 4.0
    stall_seconds = 1.0


class SlowDiscards(FairWorker):
    """Reads 2 MB of refused bodies in a second."""

    discard_rate = 2e6


@pytest.fixture(scope="module")
def server(serve_for_all: Serve) -> Server:
    """One worker, with few threads."""
    arguments = f"--worker-class tests.test_worker.ShortTimeouts --threads {THREADS}"
    return serve_for_all(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS=arguments)


@pytest.fixture(scope="module")
def narrow(serve_for_all: Serve) -> Server:
    """One worker with a single thread, which a client must not hold."""
    arguments = "--threads 1 --worker-class tests.test_worker.ShortTimeouts"
    return serve_for_all(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS=arguments)


@pytest.fixture(scope="module")
def few_connections(serve_for_all: Serve) -> Server:
    """One worker that may have 50 connections."""
    return serve_for_all(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--worker-connections 50 --threads 4")


@pytest.fixture(scope="module")
def discarding(serve_for_all: Serve) -> Server:
    """One worker that is slow to read refused bodies."""
    return serve_for_all(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--worker-class tests.test_worker.SlowDiscards")


def slowly(port: int, request: bytes, connections: list[socket.socket], start: bytes = b"") -> socket.socket:
    """Send a request byte by byte after its start, too slowly to complete before any timeout."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    connections.append(client)
    client.sendall(start)

    def send() -> None:
        with suppress(OSError):
            for at in range(len(request)):
                client.sendall(request[at : at + 1])
                time.sleep(0.5)

    Thread(target=send, daemon=True).start()
    return client


@pytest.fixture
def connections() -> Iterator[list[socket.socket]]:
    """Connections that are closed after the test."""
    opened: list[socket.socket] = []
    yield opened
    for connection in opened:
        connection.close()


def head(token: str, length: int) -> bytes:
    return (
        f"POST {OBJECTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_a_slow_body_ends(server: Server, connections: list[socket.socket]) -> None:
    """A body that arrives too slowly is answered with 400, and its slot is free again."""
    token, body = add_another(server), photo("chelsea")
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connections.append(client)
    client.sendall(head(token, len(body)) + body[:1000])
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 400
    assert json.loads(response.read())["message"] == "Invalid request body."
    assert call(server.port, OBJECTS, body, token).status == 200


HALF_SENT = [
    b"",
    b"GET /health/l",
    b"POST /images/classify/objects HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bear",
    b"POST /images/classify/objects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc",
]


def connect(
    server: Server, connections: list[socket.socket], receive_buffer: int | None = None, address: str = "127.0.0.1"
) -> socket.socket:
    """A new connection from a local address, which is closed after the test."""
    client = socket.socket()
    connections.append(client)
    client.settimeout(30)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.bind((address, 0))
    client.connect(("127.0.0.1", server.port))
    return client


def read_all(client: socket.socket) -> bytes:
    """Everything that is sent until the server closes its side."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_idle_and_half_sent_requests_hold_no_thread(narrow: Server, connections: list[socket.socket]) -> None:
    """300 clients that have sent nothing or half a request do not keep a worker with one thread from answering."""
    for n in range(300):
        connect(narrow, connections).sendall(HALF_SENT[n % len(HALF_SENT)])
    for _ in range(10):
        assert call(narrow.port, "/health/live").status == 200


def test_half_sent_heads_end(server: Server, connections: list[socket.socket]) -> None:
    """A head that arrives too slowly is not waited for."""
    client = slowly(server.port, head("x" * 200, 0), connections)
    assert client.recv(1000) == b""
    assert server.is_ready()


def test_the_oldest_idle_connection_makes_room(few_connections: Server, connections: list[socket.socket]) -> None:
    """More connections than a worker may have do not keep new clients out."""
    for _ in range(100):
        connect(few_connections, connections)
    assert call(few_connections.port, "/health/live").status == 200
    assert connections[0].recv(1) == b""  # closed, although it could have stayed open for 30 seconds


def ask(connection: http.client.HTTPConnection) -> int:
    """The status of a health check."""
    connection.request("GET", "/health/live")
    response = connection.getresponse()
    response.read()
    return response.status


def test_a_crowd_makes_room(few_connections: Server, connections: list[socket.socket]) -> None:
    """Idle connections of one address do not close another's, not even the one that has been idle the longest."""
    other = http.client.HTTPConnection("127.0.0.1", few_connections.port, timeout=10)
    assert ask(other) == 200
    sock = other.sock
    for _ in range(200):
        connect(few_connections, connections, address="127.0.0.2")
    assert connections[100].recv(1) == b""  # closed for later ones
    assert ask(other) == 200
    assert other.sock is sock is not None  # it was not opened again
    other.close()


def test_unread_replies_make_room(few_connections: Server, connections: list[socket.socket]) -> None:
    """An address that has as many connections as a worker may have, and reads no replies, keeps nobody out."""
    for _ in range(60):
        client = connect(few_connections, connections, receive_buffer=2048, address="127.0.0.2")
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 60)
    time.sleep(2)  # until the buffers of all connections are full
    other = http.client.HTTPConnection("127.0.0.1", few_connections.port, timeout=10)
    assert ask(other) == 200
    other.close()


def test_more_connections_than_files(serve: Serve, connections: list[socket.socket]) -> None:
    """A worker that may open no more files closes idle connections, and goes on."""
    server = serve(WEB_CONCURRENCY="1", within=("prlimit", "--nofile=100:100"))
    for _ in range(150):
        connect(server, connections)
    assert call(server.port, "/health/live").status == 200
    assert "Traceback" not in server.log.read_text()


def test_connections_leave_files(serve: Serve, connections: list[socket.socket]) -> None:
    """Where few files may be open, connections leave those that the database, the model and the metrics need."""
    server = serve(WEB_CONCURRENCY="1", within=("prlimit", "--nofile=400:400"))
    for _ in range(450):
        connect(server, connections)
    assert call(server.port, "/health/live").status == 200
    assert sockets(server.workers[0]) <= 200


def test_clients_that_do_not_close(narrow: Server, connections: list[socket.socket]) -> None:
    """A worker that has closed its side of a connection serves others while it waits for the client to close."""
    for _ in range(10):
        client = connect(narrow, connections)
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 200 ")  # and the client's side stays open
    start = time.monotonic()
    assert call(narrow.port, "/health/live").status == 200
    assert time.monotonic() < start + 2
    for client in connections:
        assert client.recv(1) == b""
    wait_until(lambda: sockets(narrow.workers[0]) == 1)  # the port


@pytest.mark.parametrize("kilobytes", [1, 120, 1000, 6900, 9000])
def test_a_refusal_arrives(narrow: Server, kilobytes: int) -> None:
    """A client that sends all of its body before it reads gets the refusal, and can use the connection again."""
    connection = http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=30)
    connection.connect()
    sock = connection.sock
    for _ in range(5):
        connection.request("POST", OBJECTS, b"A" * kilobytes * 1000, {"Authorization": "Bearer x"})
        response = connection.getresponse()
        assert (response.status, response.headers["Connection"]) == (401, "keep-alive")
        assert json.loads(response.read())["statusCode"] == 401
    assert connection.sock is sock
    connection.close()


def test_a_refusal_of_an_endless_body_arrives(narrow: Server) -> None:
    """The same for a body whose end is unknown, or too far away: there the reply says that the connection ends."""
    chunk = b"10000\r\n" + b"A" * 0x10000 + b"\r\n"
    for framing, body in (("Transfer-Encoding: chunked", chunk * 100), (f"Content-Length: {2**30}", b"A" * 7_000_000)):
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=30) as client:
            client.sendall(f"POST {OBJECTS} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + body)
            response = http.client.HTTPResponse(client)
            response.begin()
            assert (response.status, response.headers["Connection"]) == (401, "close")
            assert json.loads(response.read())["statusCode"] == 401


def test_a_refused_body_that_does_not_end(narrow: Server, connections: list[socket.socket]) -> None:
    """A client that stops in the middle of a refused body, or is too slow, gets a reply that ends the connection."""
    stalled = connect(narrow, connections)
    stalled.sendall(HALF_SENT[-1])
    trickling = slowly(narrow.port, b"A" * 100, connections, start=HALF_SENT[-1])
    for client in (stalled, trickling):
        reply = read_all(client)
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nConnection: close\r\n" in reply


def test_refused_bodies_are_read_at_a_limited_rate(discarding: Server) -> None:
    """Refused bodies cannot take the processor time of other clients: a worker reads so many bytes a second of them."""
    start = time.monotonic()
    replies: list[int] = []
    uploads = [
        Thread(target=lambda: replies.append(call(discarding.port, OBJECTS, b"A" * 2_000_000).status)) for _ in "abc"
    ]
    for upload in uploads:
        upload.start()
    while time.monotonic() < start + 1:
        assert call(discarding.port, "/health/live").status == 200
    for upload in uploads:
        upload.join(30)
    assert replies == [401] * 3
    assert time.monotonic() > start + 2.5  # 6 MB, less the tenth of a second that may be saved up


def test_refused_bodies_of_another_address(discarding: Server) -> None:
    """A refusal does not wait for the many bodies that another address sends: addresses take turns to be read from."""
    replies: list[int] = []

    def upload(source: str) -> None:
        replies.append(call(discarding.port, OBJECTS, b"A" * 500_000, source=source).status)

    uploads = [Thread(target=upload, args=("127.0.0.2",)) for _ in range(40)]
    for thread in uploads:
        thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    upload("127.0.0.1")
    assert time.monotonic() < start + 4  # 20.5 MB take 10 seconds
    for thread in uploads:
        thread.join(60)
    assert replies == [401] * 41


def test_a_client_that_asks_before_it_sends(narrow: Server) -> None:
    """With `Expect: 100-continue`, a client is told to send its body only if it is not refused without it."""
    body = photo("chelsea")
    for token, expected in (("x", [b"401"]), (add_another(narrow), [b"100", b"200"])):
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=30) as client:
            client.sendall(head(token, len(body)).replace(b"\r\nHost", b"\r\nExpect: 100-continue\r\nHost"))
            with client.makefile("rb") as replies:
                for status in expected:
                    assert replies.readline().split()[1] == status
                    headers = http.client.parse_headers(replies)
                    if status == b"100":
                        client.sendall(body)
            assert headers["Connection"] == ("close" if token == "x" else "keep-alive")


def test_chunks_with_extensions_end(narrow: Server) -> None:
    """A body whose chunks come with more bytes than a body may have is not read to its end."""
    chunk = b"1;a=" + b"b" * 8000 + b"\r\nA\r\n"
    head = f"POST {OBJECTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {add_another(narrow)}\r\n"
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=30) as client:
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 1700 + b"0\r\n\r\n")  # 13 MB
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.headers["Connection"]) == (400, "close")
        assert json.loads(response.read())["details"]["data"][0].startswith("The body ends too early")


def test_an_unread_reply_holds_no_thread(narrow: Server, connections: list[socket.socket]) -> None:
    """Clients that do not read their replies do not keep a worker with one thread from answering, and are cut off."""
    clients = [connect(narrow, connections, receive_buffer=2048) for _ in range(10)]
    for client in clients:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)  # more than buffers hold
    for _ in range(10):
        assert call(narrow.port, "/health/live").status == 200
    time.sleep(ShortTimeouts.write_seconds)
    wait_until(lambda: sockets(narrow.workers[0]) == 1)  # the port


def test_an_unread_reply_ends(server: Server, connections: list[socket.socket]) -> None:
    """Clients that request large replies again and again without reading them are disconnected."""
    token = add_another(server)
    body = base64.b64encode(png_of(picture("astronaut").resize((1000, 1000))))
    request = head(token, len(body)).replace(b"\r\nHost", b"\r\nAccept: image/png\r\nHost") + body

    def ask_on(client: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client.sendall(request)

    threads = []
    for _ in range(2):
        client = socket.create_connection(("127.0.0.1", server.port))
        connections.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        threads.append(Thread(target=ask_on, args=(client,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert call(server.port, OBJECTS, body, token).status == 200


def test_a_disconnected_client_costs_nothing(server: Server) -> None:
    """Clients that disconnect in the middle of a request leave no thread, socket or slot occupied."""
    token, body = add_another(server), photo("chelsea")
    assert call(server.port, OBJECTS, body, token).status == 200
    [worker] = server.workers
    wait_until(lambda: sockets(worker) == 1)  # the port: no client of an earlier test is connected
    for length in (0, 10, len(body) // 2, len(body)):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                client.sendall((head(token, len(body)) + body)[: len(head(token, len(body))) + length])
    wait_until(lambda: sockets(worker) == 1)
    wait_until(lambda: call(server.port, OBJECTS, body, token).status == 200)  # complete requests first
    assert server.workers == [worker]


def test_a_reply_is_one_packet(server: Server) -> None:
    """The first bytes that a client reads are a whole reply, so that a host that fails leaves none cut in two."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        for _ in range(50):
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reply, _, body = client.recv(65536).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in reply
            assert body


def test_a_stopping_worker_answers_waiting_clients(serve: Serve) -> None:
    """Clients that are connected when a server is stopped are answered, not reset; later ones are refused.

    A proxy can send a refused request to another host. It must not send a POST again that a host might have read.
    """
    server = serve(WEB_CONCURRENCY="1")
    users, body, [worker] = [add(server, f"user-{n}") for n in range(6)], photo("chelsea"), server.workers
    os.kill(worker, signal.SIGSTOP)  # so that the clients wait
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in users]
    for connection, token in zip(waiting, users, strict=True):
        connection.request("POST", OBJECTS, body, {"Authorization": f"Bearer {token}"})
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Handling signal: term" in server.log.read_text())
    os.kill(worker, signal.SIGCONT)
    assert [connection.getresponse().status for connection in waiting] == [200] * 6
    assert server.process.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        call(server.port, "/health/live")


def test_tls_is_refused(tmp_path: Path) -> None:
    """Options for TLS are refused: the worker would read requests, and tokens, in the clear."""
    file = tmp_path / "certificate.pem"
    file.touch()
    tls = ["--certfile", str(file), "--keyfile", str(file)]
    command = [str(BIN / "gunicorn"), "--bind", "127.0.0.1:0", "--workers", "1", *tls]
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "Error: gunicorn's own TLS is not supported: put nginx in front" in done.stderr
    assert done.returncode == 3


def test_a_stop_during_the_start(serve: Serve) -> None:
    """A server that is stopped while its workers load the model exits with 0 and without a traceback."""
    server = serve(WEB_CONCURRENCY="1")
    [worker] = server.workers
    os.kill(worker, signal.SIGKILL)  # its successor loads the model when the signal comes
    wait_until(lambda: server.workers not in ([], [worker]))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_shares() -> None:
    """A worker sees the fewest connections of those that still serve, not of one that has stopped or was killed."""
    now = 100.0
    shares = Shares(clock=lambda: now)
    assert shares.least() == 0
    shares.write(1, 7)
    shares.write(2, 3)
    shares.write(3, 5)
    assert shares.least() == 3
    shares.clear(2)
    assert shares.least() == 5
    now += STALE_SECONDS - 1
    shares.write(1, 7)
    now += 1
    assert shares.least() == 7


@pytest.fixture
def switch_interval() -> Iterator[float]:
    """Python's own switch interval, which the test may change."""
    interval = sys.getswitchinterval()
    yield interval
    sys.setswitchinterval(interval)


def test_a_stopping_worker_switches_threads_sooner(switch_interval: float) -> None:
    """A stopping worker waits 10 us for busy threads, not 5 ms, in which clients could still connect."""
    config = Config()
    worker = FairWorker(1, os.getpid(), [], None, 30, config, Logger(config))
    worker.set_accept_enabled(True)
    assert sys.getswitchinterval() == switch_interval
    worker.alive = False
    worker.set_accept_enabled(False)
    assert sys.getswitchinterval() == pytest.approx(1e-5)
    worker.tmp.close()
