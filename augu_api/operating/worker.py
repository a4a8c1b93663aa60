"""The gunicorn worker: calls shared fairly, no reply outside of the envelope, and no patience without end."""

import socket
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.http import errors  # type: ignore[import-untyped]
from gunicorn.util import write_nonblock  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError
from werkzeug.wsgi import ClosingIterator

from augu_api.config import SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.store.database import explain
from augu_api.web.envelope import Failure, refusal
from augu_api.web.security_headers import HEADERS

DELAY = 0.0003  # seconds for each open connection
SWITCH = 1e-5  # seconds until a worker that stops can close its port; in Python's 5 ms one more could connect
STATUSES = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431, errors.UnsupportedTransferCoding: 501}


class FairWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker that lets others take a new connection first, the longer the more it has itself.

    All workers are woken by a new connection and the first takes it. The one that is awake already would take most.

    A client may hold a thread for `read_seconds` with a request that does not come to its end, and for
    `write_seconds` with a reply that it does not read.
    """

    read_seconds = 30.0
    write_seconds = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[Any, float] = {}
        self.wsgi: WSGIApplication

    def accept(self, listener: Any) -> None:
        """Wait, then take the connection if it is still there."""
        time.sleep(min(self.nr_conns, 10) * DELAY)
        super().accept(listener)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a worker that stops leaves nobody waiting at its port.

        gunicorn would let clients connect until its last request is answered, and then reset who waits. A proxy must
        not send their requests to another host, as this one might have read them; a connection refused it may.
        """
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        sys.setswitchinterval(SWITCH)
        for listener in self.sockets:
            before = -1
            while before != self.nr_conns:  # the last one took nobody
                before = self.nr_conns
                super().accept(listener)
            listener.close()

    def handle(self, conn: Any) -> Any:
        """Handle a request, in a thread, and remember since when."""
        self._begun[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self._begun[conn]

    def notify(self) -> None:
        """Say that the worker is alive, as its loop does every second, and end what takes too long.

        A thread that waits for more of a request then finds its end, and answers 400 if it was at the body.
        """
        super().notify()
        now = time.monotonic()
        for conn, begun in list(self._begun.items()):
            if now > begun + self.read_seconds:
                how = socket.SHUT_RD if now < begun + self.write_seconds else socket.SHUT_RDWR
                with suppress(OSError):  # the client is gone already
                    conn.sock.shutdown(how)

    def load_wsgi(self) -> None:
        """Load the application; what an operator can mend ends the start with a line that says what it is.

        A database that is gone when a worker has to be replaced does not end the server: another one tries in a second.
        """
        try:
            super().load_wsgi()
            self.wsgi = _in_one_packet(self.wsgi)
        except (SettingsError, ModelUnavailable) as error:
            self._refuse_to_start(str(error), Arbiter.WORKER_BOOT_ERROR)
        except (DBAPIError, StorageError) as error:
            if self.age <= self.cfg.workers:  # of the first ones
                self._refuse_to_start(explain(error), Arbiter.WORKER_BOOT_ERROR)
            time.sleep(1)
            self._refuse_to_start(explain(error), 1)

    def _refuse_to_start(self, reason: str, code: int) -> None:
        self.log.error("Error: %s", reason)
        sys.exit(code)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what is not HTTP in the envelope; gunicorn would quote it, in HTML and in its log."""
        status = STATUSES.get(type(exc), 400 if isinstance(exc, errors.ParseException) else 500)
        id = uuid.uuid4().hex
        if status == 500:
            self.log.error("An unexpected error (request %s)", id, exc_info=exc)
        else:
            self.log.warning("Not HTTP: %s (request %s)", type(exc).__name__, id)
        try:
            write_nonblock(client, _reply(status, id))
        except OSError:
            self.log.debug("The client is gone.")


def _in_one_packet(application: WSGIApplication) -> WSGIApplication:
    """The application, a reply's head and body leaving together if a packet holds both, so that none is cut in two.

    What gunicorn says before it calls the application, "100 Continue", is not kept back.
    """

    def corked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = environ["gunicorn.socket"]
        _cork(connection, 1)
        return ClosingIterator(application(environ, start_response), lambda: _cork(connection, 0))

    return corked


def _cork(connection: socket.socket, on: int) -> None:
    with suppress(OSError, AttributeError):  # the client is gone already, or this is not Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


def _reply(status: int, id: str) -> bytes:
    """A reply of the envelope, as it is sent."""
    response = refusal(Failure(status))
    response.headers.update(HEADERS | {"X-Request-Id": id, "Connection": "close"})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in response.headers)
    return f"{head}\r\n".encode("latin-1") + response.get_data()
