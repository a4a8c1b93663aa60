"""The gunicorn worker: threads, calls shared fairly among the workers, and no patience without end."""

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

DELAY = 0.001  # seconds for each open connection


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
        for listener in self.sockets:
            before = -1
            while before != self.nr_conns:
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
