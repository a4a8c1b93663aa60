"""The gunicorn worker: slow clients, clients that disconnect, and how a worker stops."""

import base64
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # gunicorn has no types

from augu_api.operating.worker import FairWorker
from tests.helpers import OBJECTS, picture, png_of, wait_until
from tests.servers import Nginx, Serve, Server, add, call, photo, sockets

THREADS = 12


class ShortTimeouts(FairWorker):
    """Gives slow clients less time than the worker that serves, so that the tests need not wait."""

    read_seconds = 2.0
    write_seconds = 4.0


@pytest.fixture
def server(serve: Serve) -> Server:
    """One worker, with few threads."""
    arguments = f"--worker-class tests.test_worker.ShortTimeouts --threads {THREADS}"
    return serve(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS=arguments)


def slowly(port: int, request: bytes, connections: list[socket.socket]) -> socket.socket:
    """Send a request byte by byte, too slowly to complete before any timeout."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    connections.append(client)

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
    token, body = add(server, coefficient=1000), photo("chelsea")
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connections.append(client)
    client.sendall(head(token, len(body)) + body[:1000])
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 400
    assert json.loads(response.read())["message"] == "Invalid request body."
    assert call(server.port, OBJECTS, body, token).status == 200


def test_slow_heads_hold_a_thread_each_for_a_while(server: Server, connections: list[socket.socket]) -> None:
    """While slow clients occupy all threads but one, others are served; then the slow ones are disconnected."""
    clients = [slowly(server.port, head("x" * 200, 0), connections) for _ in range(THREADS - 1)]
    for _ in range(5):
        assert call(server.port, "/health/live").status == 200
    for client in clients:
        assert client.recv(1000) == b""
    assert server.is_ready()


def test_slow_clients_behind_nginx_hold_nothing(serve: Serve, nginx: Nginx, connections: list[socket.socket]) -> None:
    """More slow clients than the worker has threads, in the head or in the body: nginx keeps them from the worker."""
    server = serve(WEB_CONCURRENCY="1")  # with the timeouts of the worker that serves
    port, token, [worker] = nginx(server.port), add(server), server.workers
    assert call(port, "/health/live").status == 200
    before = sockets(worker)
    for _ in range(THREADS):
        slowly(port, head("x" * 200, 0), connections)
        client = slowly(port, b"", connections)
        client.sendall(head(token, 1000) + b"a")
    for _ in range(5):
        assert call(port, "/health/live").status == 200
    wait_until(lambda: sockets(worker) <= before, 5)  # nginx disconnects them after 10 seconds


def test_an_unread_reply_ends(server: Server, connections: list[socket.socket]) -> None:
    """Clients that request large replies again and again without reading them are disconnected."""
    token = add(server, coefficient=1000)
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
    token, body = add(server, coefficient=1000), photo("chelsea")
    assert call(server.port, OBJECTS, body, token).status == 200
    [worker] = server.workers
    before = sockets(worker)
    for length in (0, 10, len(body) // 2, len(body)):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                client.sendall((head(token, len(body)) + body)[: len(head(token, len(body))) + length])
    wait_until(lambda: sockets(worker) <= before)
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
    token, body, [worker] = add(server, coefficient=1000), photo("chelsea"), server.workers
    os.kill(worker, signal.SIGSTOP)  # so that the clients wait
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(6)]
    for connection in waiting:
        connection.request("POST", OBJECTS, body, {"Authorization": f"Bearer {token}"})
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Handling signal: term" in server.log.read_text())
    os.kill(worker, signal.SIGCONT)
    assert [connection.getresponse().status for connection in waiting] == [200] * 6
    assert server.process.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        call(server.port, "/health/live")


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
