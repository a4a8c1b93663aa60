"""Servers that send fixed replies whatever the request: they stand in for broken servers and proxies."""

from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer
from ssl import SSLContext
from threading import Thread

TOKEN = "a.secret.token"
HTML = b"<html><h1>Bad gateway</h1></html>"


@contextmanager
def running(server: BaseServer) -> Iterator[None]:
    """A server that answers in a thread of its own."""
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Canned(ThreadingTCPServer):
    """Sends the next reply to each request, repeating the last, and disconnects; `seen` holds the request heads."""

    daemon_threads = True

    def __init__(self, *replies: bytes) -> None:
        super().__init__(("127.0.0.1", 0), CannedHandler)
        self.replies, self.seen = list(replies), list[bytes]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class CannedHandler(StreamRequestHandler):
    server: Canned
    timeout = 30

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        length = [line for line in head.splitlines() if line.lower().startswith(b"content-length:")]
        self.rfile.read(int(length[0].split()[1]) if length else 0)
        self.server.seen.append(head)
        replies = self.server.replies
        self.wfile.write(replies.pop(0) if len(replies) > 1 else replies[0])


@contextmanager
def canned(*replies: bytes, context: SSLContext | None = None) -> Iterator[Canned]:
    """A server that sends these replies, over TLS if there is a context."""
    server = Canned(*replies)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = server.url.replace("http:", "https:")
    with running(server):
        yield server


def http(status: int, body: bytes, *headers: str) -> bytes:
    """An HTTP reply."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def envelope(status: int, rest: str) -> bytes:
    return f'{{"statusCode":{status},{rest}}}'.encode()
