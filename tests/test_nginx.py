"""deploy/nginx.conf in front of real servers: error replies, limits by address, slow clients and hosts that fail."""

import http.client
import json
import resource
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread
from typing import Any

import pytest

from tests.helpers import BAD_TOKEN, LOOPBACK, OBJECTS, free_port, wait_until
from tests.servers import Nginx, Reply, Serve, Server, add_another, call, photo, sockets

METRICS_TOKEN = "a metrics token of 32 characters"
ATTACKERS = [f"127.0.0.{n}" for n in range(2, 9)]
"""Other addresses of this machine than the one from which the tests call."""
REPLY = b"x" * 10_000_000


# --- a host behind nginx


class Host(ThreadingTCPServer):
    """A host of the test's own: GET is answered at once, and POST as `answer_post` does."""

    daemon_threads = True
    request_queue_size = 1000

    def __init__(self, answer_post: Callable[["Connection"], None]) -> None:
        super().__init__((LOOPBACK, 0), Connection)
        self.answer_post = answer_post
        self.posts = 0
        self.large_reply_taken = Event()
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Connection(StreamRequestHandler):
    """A connection from nginx, which sends one request."""

    server: Host

    def handle(self) -> None:
        line, length = self.rfile.readline(), 0
        while (header := self.rfile.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        if line.startswith(b"POST "):
            self.server.posts += 1
            self.length = length
            self.server.answer_post(self)
        elif b"/large" in line:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(REPLY) + REPLY)
            self.server.large_reply_taken.set()
        elif line:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def accept(connection: Connection) -> None:
    """Read the body and answer 200."""
    connection.rfile.read(connection.length)
    connection.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def disconnect(connection: Connection) -> None:
    """Read the body and close without an answer."""
    connection.rfile.read(connection.length)


def reset(connection: Connection) -> None:
    """Close with a TCP reset, which overtakes what was answered, as a server that does not read what it refuses."""
    connection.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.request.close()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    """Start hosts: `host(reset)`."""
    with ExitStack() as closing:

        def start(answer_post: Callable[[Connection], None] = accept) -> Host:
            started = closing.enter_context(Host(answer_post))
            closing.callback(started.shutdown)
            return started

        yield start


# --- clients


@dataclass
class Crowd:
    """Many connections to a port."""

    port: int
    opened: list[socket.socket] = field(default_factory=list)

    def connect(self, source: str, sent: bytes = b"") -> socket.socket:
        """A connection from an address that has sent this and waits."""
        client = socket.socket()
        self.opened.append(client)
        client.bind((source, 0))
        client.settimeout(10)
        with suppress(OSError):  # nginx has refused it already
            client.connect((LOOPBACK, self.port))
            client.sendall(sent)
        return client

    def close(self) -> None:
        for client in self.opened:
            client.close()


@pytest.fixture
def crowd() -> Iterator[Callable[[int], Crowd]]:
    """Connections to a port, which are closed after the test."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as closing:

        def start(port: int) -> Crowd:
            crowd = Crowd(port)
            closing.callback(crowd.close)
            return crowd

        yield start


def head(length: int, *headers: str, path: str = OBJECTS) -> bytes:
    """The head of a request with a body of `length` bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


TOKEN = "Authorization: x"


def answered(clients: list[socket.socket], at_least: int) -> list[Reply]:
    """Take out the clients that have got a reply, once there are so many; their replies."""
    for client in clients:
        client.setblocking(False)
    wait_until(lambda: sum(has_reply(client) for client in clients) >= at_least, 20)
    replies = []
    for client in filter(has_reply, clients.copy()):
        clients.remove(client)
        client.settimeout(10)
        response = http.client.HTTPResponse(client)
        response.begin()
        replies.append(Reply(response.status, response.headers, response.read()))
    return replies


def has_reply(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except OSError:
        return False


def processes(folder: Path) -> list[int]:
    """The process ids of the nginx in this folder that serve requests."""
    main = (folder / "nginx.pid").read_text().strip()
    return [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]


def memory(folder: Path) -> int:
    """The bytes of memory that nginx's processes take."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in processes(folder)]
    return sum(pages) * resource.getpagesize()


def is_protected(reply: Reply) -> bool:
    """Whether the headers forbid a browser to cache the reply or to guess its type."""
    return (reply.headers["Cache-Control"], reply.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


def is_refusal(reply: Reply) -> bool:
    """Whether it is a refusal by nginx's limits in the envelope, which says when to try again."""
    assert reply.status in (429, 503)
    assert reply.headers["Retry-After"] == "1"
    assert reply.headers["X-Retry-After"] == ("1" if reply.status == 429 else None)
    assert is_protected(reply)
    error = {429: "Too Many Requests", 503: "Service Unavailable"}[reply.status]
    return (reply.json["statusCode"], reply.json["error"]) == (reply.status, error)


# --- replies


@pytest.fixture(scope="module")
def server(serve_for_all: Serve) -> Server:
    return serve_for_all(WEB_CONCURRENCY="1", AUGU_METRICS_TOKEN=METRICS_TOKEN)


def test_through_nginx(server: Server, nginx: Nginx) -> None:
    """Through nginx, photos get objects, bad bodies get the envelope, and metrics are available only locally."""
    port, token = nginx(server.port), add_another(server)
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
        reply = call(port, path, None, METRICS_TOKEN, "127.0.0.2", **{"X-Forwarded-For": LOOPBACK})
        assert (reply.status, reply.json["message"]) == (403, "Metrics are private.")
    assert call(port, "/session", token=token, source="127.0.0.2").status == 200


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


# --- limits by address


def test_anonymous_callers(nginx: Nginx) -> None:
    """Callers without a token get 429 in the envelope after a burst; callers with a token may send more."""
    port = nginx(free_port())  # nothing needs to answer behind it
    replies = [call(port, "/health/live") for _ in range(60)]
    assert [reply.status for reply in replies[:20]] == [503] * 20
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) >= 20
    assert all(is_refusal(reply) for reply in refused)
    assert {call(port, "/health/live", token="any").status for _ in range(60)} == {503}


def test_requests_with_any_header(nginx: Nginx, host: Callable[..., Host], crowd: Callable[[int], Crowd]) -> None:
    """An address that sends 600 requests at once gets 429 for many of them, whatever its Authorization header says."""
    port = nginx(host().port)
    clients = crowd(port)
    request = f"GET /docs HTTP/1.1\r\nHost: localhost\r\n{TOKEN}\r\n\r\n".encode()
    replies = answered([clients.connect(ATTACKERS[0], request) for _ in range(600)], 600)
    assert all(is_refusal(reply) for reply in replies if reply.status != 200)
    statuses = Counter(reply.status for reply in replies)
    assert statuses[429] >= 100
    assert statuses[200] >= 100
    assert call(port, "/session", token="any").status == 200


@pytest.mark.parametrize(("header", "allowed"), [(TOKEN, 20), ("A: no token", 8)])
def test_bodies_from_one_address(
    nginx: Nginx, crowd: Callable[[int], Crowd], host: Callable[..., Host], header: str, allowed: int
) -> None:
    """An address may have 20 bodies under way, and 8 without a token; more get 503, other addresses are served."""
    port = nginx(host().port)
    connect = crowd(port).connect
    clients = [connect(ATTACKERS[0], head(1000, header) + b"a") for _ in range(allowed + 5)]
    replies = answered(clients, 5)
    assert [(reply.status, is_refusal(reply)) for reply in replies] == [(503, True)] * 5
    assert call(port, OBJECTS, b"photo", "any").status == 200
    for client in clients:
        client.sendall(b"a" * 999)
    assert [reply.status for reply in answered(clients, allowed)] == [200] * allowed


def test_bodies_from_many_addresses(nginx: Nginx, crowd: Callable[[int], Crowd], host: Callable[..., Host]) -> None:
    """All addresses together may have 80 bodies under way; more get 503, and requests without a body are served."""
    port = nginx(host().port)
    connect = crowd(port).connect
    clients = [connect(source, head(1000, TOKEN) + b"a") for source in ATTACKERS[:5] for _ in range(17)]
    replies = answered(clients, 5)
    assert [(reply.status, is_refusal(reply)) for reply in replies] == [(503, True)] * 5
    assert call(port, "/session", token="any").status == 200


def test_large_bodies_wait(nginx: Nginx, crowd: Callable[[int], Crowd], host: Callable[..., Host]) -> None:
    """Of 60 uploads that an address announces at once, about 10 are read, 30 wait, and 20 get 429.

    It does not help to leave out the length.
    """
    port = nginx(host().port)
    clients = crowd(port)
    unknown = head(0, TOKEN).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    uploads = [clients.connect(ATTACKERS[0], head(1_000_000, TOKEN)) for _ in range(30)]
    uploads += [clients.connect(ATTACKERS[0], unknown) for _ in range(30)]
    replies = answered(uploads, 10)
    assert {reply.status for reply in replies} <= {429, 503}
    assert all(is_refusal(reply) for reply in replies)
    assert call(port, OBJECTS, b"photo", "any", source=ATTACKERS[0]).status == 200


def test_memory_of_uploads(nginx: Nginx, tmp_path: Path, crowd: Callable[[int], Crowd]) -> None:
    """60 uploads of 8 MB from one address that are nearly complete take memory for 20 of them at most."""
    port = nginx(free_port())
    before = memory(tmp_path)
    clients = crowd(port)
    sent = head(8_300_000, TOKEN) + b"a" * 8_200_000

    with ThreadPoolExecutor(60) as pool:
        list(pool.map(lambda _: clients.connect(ATTACKERS[0], sent), range(60)))
    assert 20_000_000 < memory(tmp_path) - before < 20 * 10_000_000


WAITING = {
    "nothing": b"",
    "half a head": b"POST / HTTP/1.1\r\nHost: localhost\r\n",
    "half a body without a token": head(1000) + b"a",
    "half a body": head(1000, TOKEN) + b"a",
}


@pytest.mark.parametrize("sent", WAITING.values(), ids=WAITING)
def test_thousands_of_connections(
    nginx: Nginx, host: Callable[..., Host], crowd: Callable[[int], Crowd], sent: bytes
) -> None:
    """While one address holds 2,100 connections that never complete a request, each request of others is answered."""
    port = nginx(host().port)
    clients = crowd(port)
    for _ in range(2100):
        clients.connect(ATTACKERS[0], sent)
    assert [call(port, "/session", token="any").status for _ in range(20)] == [200] * 20
    assert [call(port, OBJECTS, b"photo", "any").status for _ in range(20)] == [200] * 20


def test_callers_behind_a_load_balancer(nginx: Nginx) -> None:
    """Limits apply to the address that the load balancer saw; IPv6 callers are told apart by their first 64 bits."""
    port = nginx(free_port(), balancer=LOOPBACK)

    def refused(*callers: str) -> int:
        replies = [call(port, "/health/live", None, **{"X-Forwarded-For": caller}) for caller in callers]
        return sum(reply.status == 429 for reply in replies)

    assert refused(*(f"192.0.2.{n}" for n in range(60))) == 0
    assert refused(*(f"::ffff:192.0.3.{n}" for n in range(60))) == 0
    assert refused(*(f"2001:db8:1:{n:x}::1" for n in range(1, 60))) == 0
    assert refused(*["192.0.4.1"] * 60) >= 20
    assert refused(*(f"2001:db8:2:2:3:{n:x}::1" for n in range(60))) >= 20
    assert refused(*(f"2001:db8:2:3::{n:x}" for n in range(60))) >= 20
    assert refused(*(f"2001:db8::{n:x}" for n in range(60))) >= 20


def test_what_is_logged(nginx: Nginx, tmp_path: Path) -> None:
    """Refusals are not logged, so that nobody can fill the log, and neither are the queries that may hold a token."""
    port = nginx(free_port())
    call(port, "/session")
    call(port, "/v1/vision/detection?api_key=secret", b"photo")
    assert 429 in {call(port, "/health/live").status for _ in range(60)}
    log = (tmp_path / "nginx.log").read_text()
    assert "GET /session" in log
    assert "secret" not in log
    assert "limiting" not in log


# --- slow clients and memory


def test_slow_clients_hold_nothing(server: Server, nginx: Nginx, crowd: Callable[[int], Crowd]) -> None:
    """Slow clients, in the head or in the body, are kept from the worker, and disconnected after 10 seconds."""
    port, [worker] = nginx(server.port), server.workers
    assert call(port, "/health/live").status == 200
    before, clients = sockets(worker), crowd(port)
    slow = []
    for _ in range(15):
        slow.append(clients.connect(ATTACKERS[0], head(1000, TOKEN)[:-2]))
        slow.append(clients.connect(ATTACKERS[0], head(1000, TOKEN) + b"a"))
    assert [call(port, "/health/live").status for _ in range(5)] == [200] * 5
    wait_until(lambda: sockets(worker) <= before, 5)
    for client in slow:
        client.settimeout(20)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_slow_reader(nginx: Nginx, host: Callable[..., Host], crowd: Callable[[int], Crowd]) -> None:
    """A reply of 10 MB has left its host before the client reads it, and arrives whole."""
    server = host()
    clients = crowd(nginx(server.port))
    client = clients.connect(ATTACKERS[0])
    client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert server.large_reply_taken.wait(20)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.read() == REPLY


def test_tiny_chunks_stay_in_memory(nginx: Nginx, tmp_path: Path, crowd: Callable[[int], Crowd]) -> None:
    """A body in chunks of a byte, which fills nginx's buffer several times, is never on disk."""
    clients = crowd(nginx(free_port()))
    client = clients.connect(ATTACKERS[0], head(0, TOKEN).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    for _ in range(200):
        client.sendall(b"1\r\nA\r\n" * 10_000)

    def files() -> list[str]:
        opened = [link.readlink() for pid in processes(tmp_path) for link in Path(f"/proc/{pid}/fd").iterdir()]
        return [str(path) for path in opened if "/0000" in str(path)]

    wait_until(lambda: files() != [], 10)
    assert all(path.startswith("/dev/shm/") for path in files())


# --- hosts that fail


def test_refused_uploads_are_no_failure_of_the_host(nginx: Nginx, host: Callable[..., Host]) -> None:
    """While hosts break off uploads that they refuse, requests of others never lack a host."""
    port = nginx(host(reset).port, host(reset).port)
    body = b"a" * 2_500_000
    for _ in range(10):
        for source in ATTACKERS[:2]:
            assert call(port, OBJECTS, body, "wrong", source).status == 503
        assert call(port, "/session", token="any").status == 200


def test_a_dead_host_is_skipped(nginx: Nginx, host: Callable[..., Host]) -> None:
    """Every request is answered by the other host, once."""
    server = host()
    port = nginx(free_port(), server.port)
    assert [call(port, OBJECTS, b"photo", "any").status for _ in range(30)] == [200] * 30
    assert server.posts == 30


def test_a_post_is_sent_once(nginx: Nginx, host: Callable[..., Host]) -> None:
    """If a host closes the connection after it has read a POST, no host gets it again."""
    hosts = [host(disconnect), host(disconnect)]
    port = nginx(*(each.port for each in hosts))
    for n in range(1, 21):
        assert call(port, OBJECTS, b"photo", "any").status == 503
        assert sum(each.posts for each in hosts) == n


def test_a_good_caller_beside_wrong_tokens(server: Server, serve: Serve, nginx: Nginx) -> None:
    """While two clients upload 6 MB with wrong tokens in a loop to two hosts, another one's photos all get 200."""
    second = serve(WEB_CONCURRENCY="1", AUGU_DATA_DIR=server.env["AUGU_DATA_DIR"])
    port, token = nginx(server.port, second.port), add_another(server)
    done, refusals = Event(), Counter[int]()

    def upload(source: str) -> None:
        while not done.is_set():
            refusals[call(port, OBJECTS, b"A" * 6_200_000, source=source, **BAD_TOKEN).status] += 1

    with ThreadPoolExecutor(2) as pool:
        uploaders = [pool.submit(upload, source) for source in ATTACKERS[:2]]
        try:
            wait_until(lambda: refusals.total() >= 10)
            body = photo("chelsea")
            assert [call(port, OBJECTS, body, token).status for _ in range(30)] == [200] * 30
        finally:
            done.set()
    for uploader in uploaders:
        uploader.result()
