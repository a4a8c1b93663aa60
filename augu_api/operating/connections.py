"""A client's connection to the worker: the request that arrives on it and the reply that leaves."""

import logging
import re
import socket
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.http.body import LengthReader  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.http.message import Request  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]  # gunicorn has no types

from augu_api.web.envelope import Failure, failure_reply
from augu_api.web.security_headers import HEADERS

MAX_HEAD = 32 * 1024
"""Bytes of a request line and its headers; nginx takes as much."""

MAX_DISCARDED = 16 * 1024 * 1024
"""Bytes of a refused body that are still read, so that its sender gets to read the reply."""

MAX_RECEIVED = 12 * 1024 * 1024
"""Bytes of a request that are read for the application. A body in chunks could come with any number beside its own."""

PARSE_SECONDS = 0.1
"""Processor time that the chunks of a body may take to be taken apart: gunicorn takes seconds for some megabytes."""

HEAD_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")  # a bare line feed is an error, whatever follows it
KEEP_ALIVE, CLOSE = b"\r\nConnection: keep-alive\r\n", b"\r\nConnection: close\r\n"
MAX_PIECES = 16  # sent at once
MAPPED = "::ffff:"  # before an IPv4 address, on a port for both
logger = logging.getLogger(__name__)


class Peer(NamedTuple):
    """What gunicorn takes for a connection while it handles a request."""

    sock: "Exchange"
    client: Any
    server: Any


class Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """The source of a request's bytes, which ends at a deadline (time.monotonic).

    ended: whether the client has closed its side, was too slow, has sent too much, or what costs too much
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__(sock)
        self.deadline, self.left = deadline, MAX_RECEIVED
        self.ended = False
        self._parsed = 0.0  # processor time that gunicorn took for what it got from here
        self._gave: float | None = None  # when that was, on the clock of this thread

    def wait_until_deadline(self) -> None:
        """Let the next calls of the socket wait no longer than that; they raise TimeoutError."""
        self.sock.settimeout(max(self.deadline - time.monotonic(), 1e-3))

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes from the client; none at the end."""
        data = b""
        if self._gave is not None:
            self._parsed += time.thread_time() - self._gave
        if self.left > 0 and self._parsed < PARSE_SECONDS:
            with suppress(TimeoutError):
                self.wait_until_deadline()
                data = super().chunk(size_hint)
        self.left -= len(data)
        self.ended = not data
        self._gave = time.thread_time()
        return data


def caller_of(client: Any) -> Hashable:
    """Who is at an address: in IPv6 its first half tells, because one caller has the whole second half."""
    address = client[0] if client else ""
    if ":" not in address or address.startswith(MAPPED):
        return address
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8]


class Connection:
    """A client's connection. Either the worker's loop or one of its threads uses it, never both.

    client, server: the addresses of its ends
    caller: who it is from, for a fair share
    received: the bytes that follow the last request
    started: when the first byte of the current request came (time.monotonic)
    deadline: when the loop stops waiting for the client
    exchange: the current request and its reply
    """

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:
        sock.settimeout(0)
        self.sock, self.client, self.server = sock, client, server
        self.caller = caller_of(client)
        self.received = bytearray()
        self.started = self.deadline = time.monotonic()
        self.exchange = Exchange(self, self.deadline)

    def has_head(self, searched: int = 0) -> bool:
        """Whether the head of a request has arrived; its first `searched` bytes have been searched before."""
        return HEAD_END.search(self.received, max(0, searched - 3)) is not None

    def begin(self, cfg: Any, deadline: float) -> Any:
        """Parse the head that has arrived; the body has to arrive by the deadline. Raises gunicorn's ParseException."""
        exchange = self.exchange = Exchange(self, deadline)
        exchange.unreader.unread(bytes(self.received))
        self.received.clear()
        exchange.request = Request(cfg, exchange.unreader, self.client)
        return exchange.request


class Exchange:
    """A request and its reply. For gunicorn it is the client's socket, and collects what is written to it.

    pieces: the bytes of the reply that have not been sent
    unread: how many bytes of the request's body to discard before the reply is sent
    keep: whether the connection stays open for another request
    """

    def __init__(self, connection: Connection, deadline: float) -> None:
        self.peer = Peer(self, connection.client, connection.server)
        self.unreader = Unreader(connection.sock, deadline)
        self.request: Any = None
        self.pieces: list[bytes | memoryview] = []
        self.unread = 0
        self.keep = False
        self._sock = connection.sock
        self._waits_for_continue = False
        self._close_response: Callable[[], object] = lambda: None

    # --- a socket for gunicorn

    def sendall(self, data: bytes) -> None:
        """Collect a part of the reply."""
        self.pieces.append(data)

    def send(self, interim: bytes) -> None:
        """Send "100 Continue" only when the application reads the body: a client that is refused need not send it."""
        reader = self.request.body.reader

        def read(size: int) -> Any:
            self.unreader.wait_until_deadline()
            self._sock.sendall(interim)
            self._waits_for_continue, self.request.body.reader = False, reader
            return reader.read(size)

        self._waits_for_continue, self.request.body.reader = True, SimpleNamespace(read=read)

    def shutdown(self, how: int) -> None:
        """Refuse: only the worker closes connections."""
        raise OSError(how)

    def close(self) -> None:
        """Do nothing, for the same reason."""

    # --- for the worker

    def settle(self, response: Iterable[bytes]) -> None:
        """Decide what happens to the connection, before gunicorn writes the head of the reply."""
        self._close_response = getattr(response, "close", self._close_response)
        rest = self._rest()
        if rest is None or rest > MAX_DISCARDED:
            self.request.force_close()
        else:
            self.unread = rest

    def return_ahead(self, connection: Connection) -> None:
        """Give the connection the bytes that have been read beyond this request."""
        ahead = self.unreader.take_buffered()
        connection.received += ahead[self.unread :]
        self.unread = max(0, self.unread - len(ahead))

    def fail(self, reply: bytes) -> None:
        """Reply with these bytes instead, and end the connection."""
        self.pieces, self.keep, self.unread = [reply], False, 0

    def give_up(self) -> None:
        """Do not wait for the rest of the body: the connection ends after the reply, which says so."""
        self.keep, self.unread = False, 0
        if self.pieces:
            self.pieces[0] = bytes(self.pieces[0]).replace(KEEP_ALIVE, CLOSE, 1)

    def transmit(self) -> bool:
        """Send what the client takes at once, in one packet if it fits; whether that was all. Raises OSError."""
        while self.pieces:
            try:
                sent = self._sock.sendmsg(self.pieces[:MAX_PIECES])
            except BlockingIOError:
                return False
            while self.pieces and sent >= len(self.pieces[0]):
                sent -= len(self.pieces.pop(0))
            if sent:
                self.pieces[0] = memoryview(self.pieces[0])[sent:]
        return True

    def end(self) -> None:
        """Close the application's response: the reply has left, or never will."""
        close, self._close_response, self.pieces = self._close_response, lambda: None, []
        try:
            close()
        except Exception:
            logger.exception("A response cannot be closed")

    def _rest(self) -> int | None:
        """How many bytes of the body have not been read; None if nobody knows, or the client will not send them."""
        body = self.request.body
        if self._waits_for_continue or self.unreader.ended or body.failed:
            return None
        if isinstance(body.reader, LengthReader):
            rest: int = body.reader.length
            return rest
        return 0 if body.reader.parser is None else None


def settled(application: WSGIApplication) -> WSGIApplication:
    """The application; its response is closed by the worker when it has left, not when gunicorn has collected it."""

    def run(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = application(environ, start_response)
        environ["gunicorn.socket"].settle(response)
        return (piece for piece in response)

    return run


def failure(status: int, id: str) -> bytes:
    """A failure in the envelope, as bytes of HTTP; it says that the connection ends."""
    response = failure_reply(Failure(status))
    response.headers.update(HEADERS | {"X-Request-Id": id, "Connection": "close"})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in response.headers)
    return f"{head}\r\n".encode("latin-1") + response.get_data()
