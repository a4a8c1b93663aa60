"""Request smuggling: a request hidden in another one is never served, with and without nginx."""

import socket
from contextlib import suppress

import pytest

from tests.helpers import OBJECTS, wait_until
from tests.servers import Nginx, Serve, Server, add, call

HIDDEN = "hidden-request"
INNER = f"GET /session HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {HIDDEN}\r\n\r\n"
POST = f"POST {OBJECTS} HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
LAST = f"0\r\n\r\n{INNER}"
SHAPES = {
    "a length around chunks that end early": f"{POST}Content-Length: {len(LAST)}\r\n{CHUNKED}\r\n{LAST}",
    "chunks around a length that ends early": (
        f"{POST}Content-Length: 4\r\n{CHUNKED}\r\n{len(INNER):x}\r\n{INNER}\r\n0\r\n\r\n"
    ),
    "a short length, then a long one": f"{POST}Content-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a long length, then a short one": f"{POST}Content-Length: {len(INNER)}\r\nContent-Length: 0\r\n\r\n{INNER}",
    "two lengths in one header": f"{POST}Content-Length: 0, {len(INNER)}\r\n\r\n{INNER}",
    "a length with a sign": f"{POST}Content-Length: +{len(INNER)}\r\n\r\n{INNER}",
    "a length with an underscore": f"{POST}Content-Length: 0_0\r\n\r\n{INNER}",
    "a length with an underscore before it": f"{POST}Content_Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a length before a colon": f"{POST}Content-Length : {len(INNER)}\r\nContent-Length: 0\r\n\r\n{INNER}",
    "a length on a folded line": f"{POST}Content-Length:\r\n {len(INNER)}\r\nA: b\r\n\r\n{INNER}",
    "a length after a lone line feed": f"{POST}A: b\nContent-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a length after a carriage return": f"{POST}A: b\rContent-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a length after a null": f"{POST}A: \0\r\nContent-Length: {len(INNER)}\r\nContent-Length: 0\r\n\r\n{INNER}",
    **{
        f"a coding spelled {coding!r}": f"{POST}Content-Length: {len(LAST)}\r\nTransfer-Encoding{coding}\r\n\r\n{LAST}"
        for coding in (
            ": xchunked",
            " : chunked",
            ":\x0bchunked",
            ": chunked, identity",
            ": identity, chunked",
            ": chunked\r\nTransfer-Encoding: x",
            ":\r\n chunked",
            ": 'chunked'",
            ": CHUNKED\x00",
        )
    },
    "chunks in HTTP/1.0": f"{POST.replace('1.1', '1.0')}Content-Length: {len(LAST)}\r\n{CHUNKED}\r\n{LAST}",
    "a chunk's size with a sign": f"{POST}{CHUNKED}\r\n+0\r\n\r\n{INNER}",
    "a chunk's size in another base": f"{POST}{CHUNKED}\r\n0x0\r\n\r\n{INNER}",
    "a chunk's size of nothing": f"{POST}{CHUNKED}\r\n\r\n\r\n{INNER}",
    "a chunk's size beyond 64 bits": f"{POST}{CHUNKED}\r\n{'1' + '0' * 16}\r\n\r\n{INNER}",
    "a chunk that ends too late": f"{POST}{CHUNKED}\r\n1\r\nab\r\n0\r\n\r\n{INNER}",
    "a chunk after a lone line feed": f"{POST}{CHUNKED}\r\n1\na\n{len(INNER):x}\n{INNER}\r\n0\r\n\r\n",
    "a chunk's extension with a line feed": f"{POST}{CHUNKED}\r\n2;a=\nxx\r\n{len(INNER):x}\r\n{INNER}\r\n0\r\n\r\n",
    "a trailer with a length": f"{POST}{CHUNKED}\r\n0\r\nContent-Length: 0\r\n{INNER}\r\n",
    "a request in the path": f"GET /session HTTP/1.1\r\nA: b HTTP/1.1\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a body where none is meant": f"GET /session HTTP/1.1\r\nHost: a\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "an upgrade to HTTP/2": (
        f"{POST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        f"Content-Length: {len(INNER)}\r\n\r\n{INNER}"
    ),
}


@pytest.fixture
def server(serve: Serve, tiny_model: dict[str, str]) -> Server:
    """One worker, which takes all requests of a connection."""
    return serve(WEB_CONCURRENCY="1", **tiny_model)


def send(port: int, request: str) -> None:
    """Send the request and read all replies; nginx forwards nothing from a client that has disconnected."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client, suppress(ConnectionError, TimeoutError):
        client.sendall(request.encode("latin-1"))
        while client.recv(65536):
            pass


def served(server: Server) -> list[str]:
    """The ids of the requests that the application has logged."""
    return [record["id"] for record in server.records if "id" in record]


@pytest.mark.parametrize("way", ["behind nginx", "without nginx"])
def test_no_hidden_request_is_served(server: Server, nginx: Nginx, way: str) -> None:
    """Each shape is treated as one request or none; the hidden request on its own is served."""
    port = nginx(server.port) if way == "behind nginx" else server.port
    token = add(server, coefficient=1000)
    found = []
    for name, shape in SHAPES.items():
        before = len(served(server))
        send(port, shape)
        assert call(port, "/session", token=token).status == 200, name  # the next client gets its own reply
        if HIDDEN in served(server)[before:]:
            found.append(name)
    assert found == []
    send(port, INNER)
    wait_until(lambda: HIDDEN in served(server))
