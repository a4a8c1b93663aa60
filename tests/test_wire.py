"""Random bytes on the wire: requests that are broken anywhere, sent in any way."""

import os
import random
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.helpers import DETECTION, wait_until
from tests.hostile import PHOTO, Fields, chunked, get, post
from tests.servers import Serve, Server, add, call, sockets

SECONDS = int(os.environ.get("AUGU_TEST_WIRE_SECONDS", "8"))
ATTACKERS = 6
PIECES = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\xff", b"chunked", b"ffffffffffffffff", b"0\r\n\r\n", b";" * 50]
PIECES += [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Host: a\r\n"]
PIECES += [
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"A" * 9000,
    b"%00",
    b"\x16\3\1",
]
PIECES += [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"Content-Encoding: gzip\r\n"]


def valid(token: str) -> list[bytes]:
    """Requests of each kind."""
    auth: Fields = {"Authorization": f"Bearer {token}"}
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + PHOTO[:3000] + b"\r\n--b--\r\n"
    )
    form = auth | {"Content-Type": "multipart/form-data; boundary=b"}
    whole = [post(PHOTO, auth), post(PHOTO, auth | {"Expect": "100-continue"}), chunked(PHOTO, auth, 500)]
    return [*whole, post(part, form, DETECTION), post(b"", {}, f"{DETECTION}?api_key={token}"), get("/docs")]


def broken(dice: random.Random, request: bytes) -> bytes:
    """The request with up to six changes, most of them in its head."""
    data = bytearray(request)
    for _ in range(dice.choice((0, 1, 1, 2, 3, 6))):
        at = dice.randrange(min(len(data), dice.choice((40, 400, 10**6))) + 1)
        change = dice.randrange(5)
        if change == 0:
            data[at : at + 1] = dice.randbytes(1)
        elif change == 1:
            data[at:at] = dice.choice(PIECES)
        elif change == 2:
            del data[at : at + dice.choice((1, 2, 10, 10**6))]
        elif change == 3:
            data[at:at] = data[at : at + dice.randrange(300)]
        else:
            data += data[: dice.randrange(len(data) + 1)]
    return bytes(data)


def attack(server: Server, token: str, seed: int, until: float) -> set[int]:
    """Send broken requests until then, and read replies, end, reset or leave; the statuses of the replies."""
    dice, statuses, requests = random.Random(seed), set[int](), valid(token)
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((server.address, server.port), timeout=1) as connection:
            end = dice.randrange(5)
            if end == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
            connection.sendall(b"".join(broken(dice, dice.choice(requests)) for _ in range(dice.choice((1, 1, 4)))))
            if end == 1:
                connection.shutdown(socket.SHUT_WR)
            if end:
                statuses.update(map(int, received(connection)))
    return statuses


def received(connection: socket.socket) -> Iterator[bytes]:
    """Yield the statuses in what comes until the server closes the connection, or for a second."""
    while data := connection.recv(65536):
        yield from re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data)


@pytest.mark.parametrize("signals", [(), (signal.SIGHUP, signal.SIGTERM)], ids=["alone", "with signals"])
def test_random_requests(serve: Serve, signals: tuple[int, ...]) -> None:
    """Nothing that arrives ends a worker, is a traceback in the log, or leaves a connection open."""
    server = serve(WEB_CONCURRENCY="2", AUGU_DEEPSTACK="1")
    token, workers = add(server, coefficient=1000), server.workers
    idle, until = max(map(sockets, workers)), time.monotonic() + SECONDS
    with ThreadPoolExecutor(ATTACKERS) as pool:
        found = [pool.submit(attack, server, token, seed, until) for seed in range(ATTACKERS)]
        for each in signals:
            time.sleep(SECONDS / 3)
            os.kill(server.process.pid if each == signal.SIGHUP else server.workers[0], each)
    assert set().union(*(one.result() for one in found)) >= {400}
    assert call(server.port, "/health/live").status == 200
    wait_until(lambda: len(server.workers) == 2 and max(map(sockets, server.workers)) <= idle)
    log = server.log.read_text()
    assert signals or server.workers == workers
    assert [word for word in ("Traceback", '"ERROR"', "[ERROR]", token, token.split(".")[2]) if word in log] == []
