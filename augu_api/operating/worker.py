"""The gunicorn worker: shares connections fairly, ends slow requests, and sends every error in the envelope."""

import socket
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.http import errors  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.util import write_nonblock  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # gunicorn has no types
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError
from werkzeug.wsgi import ClosingIterator

from augu_api.config import SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.store.database import explain
from augu_api.web.envelope import Failure, failure_reply
from augu_api.web.security_headers import HEADERS

STATUSES = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431, errors.UnsupportedTransferCoding: 501}


class FairWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker with fair accepting, limits for slow clients, and a clean stop.

    A new connection wakes all workers, and the first to accept it gets it. That would mostly be the worker that is
    awake already, so each worker first waits `accept_delay` seconds for each connection that it has.

    A request that is incomplete after `read_seconds` is ended, and a reply that the client has not read after
    `write_seconds`: neither may hold a thread for longer. A subclass that `gunicorn --worker-class` names can set
    other values; the tests do.
    """

    accept_delay = 0.0003
    read_seconds = 30.0
    write_seconds = 60.0
    restart_seconds = 1.0
    stopping_switch_interval = 1e-5
    """Seconds between thread switches while the port is closed; in the default of 5 ms more clients could connect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._started: dict[Any, float] = {}
        self.wsgi: WSGIApplication

    def accept(self, listener: Any) -> None:
        """Wait for workers with fewer connections, then accept the connection if it is still there."""
        time.sleep(min(self.nr_conns, 10) * self.accept_delay)
        super().accept(listener)

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        """Start or stop accepting connections; a worker that is shutting down also closes its port.

        gunicorn would keep the port open until the last request is answered, and then reset the clients that have
        connected meanwhile. A proxy may send a refused connection's request to another host, but not a reset one's,
        which this host might have read. So the worker accepts everyone who is waiting, and then refuses connections.
        """
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        sys.setswitchinterval(self.stopping_switch_interval)
        for listener in self.sockets:
            before = -1
            while before != self.nr_conns:  # until no client is waiting
                before = self.nr_conns
                super().accept(listener)
            listener.close()

    def handle(self, conn: Any) -> Any:
        """Handle a request in a thread, and note when it started."""
        self._started[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self._started[conn]

    def notify(self) -> None:
        """Report that the worker is alive, as its loop does every second, and end what takes too long.

        A thread that is waiting for the rest of a request then reads its end; it answers 400 if that was in the body.
        """
        super().notify()
        now = time.monotonic()
        for conn, started in list(self._started.items()):
            if now > started + self.read_seconds:
                how = socket.SHUT_RD if now < started + self.write_seconds else socket.SHUT_RDWR
                with suppress(OSError):  # the client has disconnected
                    conn.sock.shutdown(how)

    def load_wsgi(self) -> None:
        """Load the application. If an operator's mistake prevents that, the server exits with one line about it.

        A worker that replaces another one while the database is down exits alone, and the next one tries again.
        """
        try:
            super().load_wsgi()
            self.wsgi = _in_one_packet(self.wsgi)
        except (SettingsError, ModelUnavailable) as error:
            self._exit(str(error), Arbiter.WORKER_BOOT_ERROR)
        except (DBAPIError, StorageError) as error:
            if self.age <= self.cfg.workers:  # one of the first workers: the server is starting
                self._exit(explain(error), Arbiter.WORKER_BOOT_ERROR)
            time.sleep(self.restart_seconds)
            self._exit(explain(error), 1)

    def _exit(self, reason: str, code: int) -> None:
        self.log.error("Error: %s", reason)
        sys.exit(code)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's signature
        """Answer a request that is not valid HTTP in the envelope; gunicorn would quote it, in HTML and in its log."""
        status = STATUSES.get(type(exc), 400 if isinstance(exc, errors.ParseException) else 500)
        id = uuid.uuid4().hex
        if status == 500:
            self.log.error("An unexpected error (request %s)", id, exc_info=exc)
        else:
            self.log.warning("Not HTTP: %s (request %s)", type(exc).__name__, id)
        try:
            write_nonblock(client, _reply(status, id))
        except OSError:
            self.log.debug("The client has disconnected.")


def _in_one_packet(application: WSGIApplication) -> WSGIApplication:
    """The application, whose replies leave with head and body in one packet if they fit, so that none is cut in two.

    "100 Continue", which gunicorn sends before it calls the application, is not held back.
    """

    def corked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = environ["gunicorn.socket"]
        _cork(connection, 1)
        return ClosingIterator(application(environ, start_response), lambda: _cork(connection, 0))

    return corked


def _cork(connection: socket.socket, on: int) -> None:
    with suppress(OSError, AttributeError):  # the client has disconnected, or this is not Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


def _reply(status: int, id: str) -> bytes:
    """A failure in the envelope, as bytes of HTTP."""
    response = failure_reply(Failure(status))
    response.headers.update(HEADERS | {"X-Request-Id": id, "Connection": "close"})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in response.headers)
    return f"{head}\r\n".encode("latin-1") + response.get_data()
