"""The loop of a gunicorn worker, in which clients wait: a request takes a thread once its head has arrived.

gunicorn's gthread worker gives each new connection a thread, which waits for the request, writes the reply and drains
what is left. Here the loop does what has to wait for a client, except that threads read the bodies.
"""

import selectors
import socket
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http import errors  # type: ignore[import-untyped]  # gunicorn has no types
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # gunicorn has no types

from augu_api.fair import FairQueue
from augu_api.operating.connections import MAX_DISCARDED, MAX_HEAD, Connection, failure
from augu_api.operating.pending import Pending
from augu_api.operating.waiting import Step, Waiting

STATUSES = {errors.LimitRequestLine: 414, errors.LimitRequestHeaders: 431, errors.UnsupportedTransferCoding: 501}
PIECE = 64 * 1024  # bytes read at once
TICK = 0.01  # seconds between two looks at connections that have to wait


class Loop(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker in which a client holds a thread only while its body arrives.

    A connection goes through these steps: `_receive` the head of a request, `handle` it in a thread, `_discard` what
    was not read of its body, `_send` the reply, and again `_receive`, or `_linger` until the client has closed.

    read_seconds: how long a request may take to arrive
    write_seconds: how long a client may take to read a reply
    stall_seconds: how long a client may pause while it sends a body that was refused, or before it closes
    linger_seconds: how long a worker that stops waits for another request, and for clients to close
    discard_rate: how many bytes of refused bodies are read in a second, so that they cost other clients little
    """

    read_seconds = 30.0
    write_seconds = 60.0
    stall_seconds = 5.0
    linger_seconds = 2.0
    discard_rate = 32e6

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wsgi: Any
        self.worker_connections: int
        self._waiting = Waiting()
        self._pending = Pending[Connection](self.cfg.threads)
        self._paused: set[Connection] = set()  # those of them that may not be read from yet
        self._resumed = FairQueue[Connection]()  # the same ones, whose callers take turns
        self._allowance = 0.0  # bytes that may be discarded
        self._refilled = self._swept = time.monotonic()

    def count(self, change: int) -> None:
        """Count connections."""
        self.nr_conns += change

    def add(self, conn: Connection) -> None:
        """Serve a new connection."""
        self.count(1)
        self._await(conn, self._receive, self.cfg.keepalive)
        self._receive(conn)

    def make_room(self) -> None:
        """Close a connection of the caller with the most, so that nobody can keep the others out.

        One that has to read a reply, or waits for a thread, is closed only if the caller has no other.
        """
        conn = self._waiting.dispensable(self._send, self._start)
        if conn:
            if self._waiting.step(conn) == self._start:
                self._pending.remove(conn.caller, conn)
            self._close(conn)

    def hurry(self) -> None:
        """Wait no longer than `linger_seconds` from now for requests, and for clients to close."""
        soon = time.monotonic() + self.linger_seconds
        for conn, step in self._waiting:
            if step in (self._receive, self._linger):
                conn.deadline = min(conn.deadline, soon)

    # --- steps

    def _receive(self, conn: Connection) -> None:
        """Read the head of a request; when it is complete, give the request to a thread."""
        searched = len(conn.received)
        data = self._read(conn, PIECE)
        if data:
            if not searched:
                conn.started = time.monotonic()
                conn.deadline = conn.started + self.read_seconds
            conn.received += data
            self._look_for_head(conn, searched)
        elif data is not None:
            self._close(conn)

    def _look_for_head(self, conn: Connection, searched: int = 0) -> None:
        if conn.has_head(searched):
            self._forget(conn)
            self._waiting.add(conn, self._start)
            self._pending.add(conn.caller, conn)
            self._hand_out()
        elif len(conn.received) > MAX_HEAD:
            self._fail(conn, errors.LimitRequestHeaders())
            self._send(conn)

    def _hand_out(self) -> None:
        while conn := self._pending.next():
            self._start(conn)

    def _start(self, conn: Connection) -> None:
        self._forget(conn)
        self.enqueue_req(conn)

    def handle(self, conn: Connection) -> bool:
        """Handle a request in a thread; whether the client is still there."""
        try:
            request = conn.begin(self.cfg, conn.started + self.read_seconds)
            conn.exchange.keep = self.handle_request(request, conn.exchange.peer)
        except (OSError, StopIteration):  # the client is gone, or the application failed in the middle of a reply
            return False
        except Exception as error:  # noqa: BLE001 - logged and answered
            self._fail(conn, error)
        conn.sock.settimeout(0)
        conn.exchange.return_ahead(conn)
        with suppress(OSError):  # noticed again by the loop
            if not conn.exchange.unread:
                conn.exchange.transmit()
        return True

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """Go on in the loop with what a thread has left."""
        self._pending.end(conn)
        self._hand_out()
        if fs.cancelled() or fs.exception() or not fs.result():
            self._close(conn)
        elif conn.exchange.unread:
            self._await(conn, self._discard, self.stall_seconds)
        else:
            self._send(conn)

    def _discard(self, conn: Connection) -> None:
        """Read on in a body that the application did not read. Many clients see no reply before they have sent all."""
        data = self._drain(conn, min(PIECE, conn.exchange.unread))
        if data is None:
            return
        conn.exchange.unread -= len(data)
        if not data:
            conn.exchange.give_up()
        if conn.exchange.unread:
            self._await(conn, self._discard, self.stall_seconds)
        else:
            self._send(conn)

    def _send(self, conn: Connection) -> None:
        """Send the reply, then go on with the next request or with the end."""
        try:
            sent = conn.exchange.transmit()
        except OSError:
            self._close(conn)
            return
        if not sent:
            if self._waiting.step(conn) != self._send:
                self._await(conn, self._send, self.write_seconds, selectors.EVENT_WRITE)
            return
        conn.exchange.end()
        if conn.exchange.keep:
            self._go_on(conn)
        else:
            self._hang_up(conn)

    def _go_on(self, conn: Connection) -> None:
        conn.started = time.monotonic()
        keepalive = self.cfg.keepalive if self.alive else self.linger_seconds
        self._await(conn, self._receive, self.read_seconds if conn.received else keepalive)
        self._look_for_head(conn)

    def _hang_up(self, conn: Connection) -> None:
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
        else:
            conn.exchange.unread = MAX_DISCARDED
            self._await(conn, self._linger, self.stall_seconds)

    def _linger(self, conn: Connection) -> None:
        """Read until the client has closed its side too: it might lose the reply otherwise (RFC 9112, section 9.6)."""
        data = self._drain(conn, PIECE)
        if data is None:
            return
        conn.exchange.unread -= len(data)
        if data and conn.exchange.unread > 0:
            self._await(conn, self._linger, self.stall_seconds)
        else:
            self._close(conn)

    # --- what the steps do

    def _await(self, conn: Connection, step: Step, seconds: float, event: int = selectors.EVENT_READ) -> None:
        """Take a step as soon as the client has sent, or read, something, but wait at most so long for it."""
        conn.deadline = time.monotonic() + seconds
        if step in (self._discard, self._linger):
            conn.deadline = min(conn.deadline, conn.started + self.write_seconds)
        if self._waiting.step(conn) != step:
            self._forget(conn)
            self._waiting.add(conn, step)
            self.poller.register(conn.sock, event, partial(self._take, conn))

    def _take(self, conn: Connection, _: Any) -> None:
        if step := self._waiting.step(conn):  # none if an earlier event of the same round has closed the connection
            step(conn)

    def _forget(self, conn: Connection) -> None:
        step = self._waiting.remove(conn)
        if conn in self._paused:
            self._paused.remove(conn)
            self._resumed.remove(conn.caller, conn)
        elif step not in (None, self._start):
            self.poller.unregister(conn.sock)

    def _close(self, conn: Connection) -> None:
        self._forget(conn)
        self.count(-1)
        conn.sock.close()
        conn.exchange.end()

    def _read(self, conn: Connection, size: int) -> bytes | None:
        """What has arrived: no bytes if the client has closed its side, None if it has sent nothing yet."""
        try:
            return conn.sock.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _drain(self, conn: Connection, size: int) -> bytes | None:
        """The same at the pace of `discard_rate`: None also if the connection has to wait."""
        if self._allowance <= 0:
            self.poller.unregister(conn.sock)
            self._paused.add(conn)
            self._resumed.put(conn.caller, conn)
            return None
        data = self._read(conn, size)
        self._allowance -= len(data or b"")
        return data

    def _fail(self, conn: Connection, error: Exception) -> None:
        """Answer a request that is not valid HTTP in the envelope; gunicorn would quote it, in HTML and in its log."""
        status = STATUSES.get(type(error), 400 if isinstance(error, errors.ParseException) else 500)
        id = uuid.uuid4().hex
        if status == 500:
            self.log.error("An unexpected error (request %s)", id, exc_info=error)
        else:
            self.log.warning("Not HTTP: %s (request %s)", type(error).__name__, id)
        conn.exchange.fail(failure(status, id))

    # --- what gunicorn's loop calls

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for clients and threads, take the next steps, and go on with what was pending or paused."""
        super().wait_for_and_dispatch_events(TICK if self._paused or self._pending else timeout)
        self._hand_out()
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._refilled) * self.discard_rate, self.discard_rate / 10)
        self._refilled = now
        for _ in range(min(len(self._paused), max(0, int(self._allowance / PIECE)))):
            self._resume(self._resumed.get())

    def _resume(self, conn: Connection) -> None:
        self._paused.remove(conn)
        if step := self._waiting.remove(conn):
            self._await(conn, step, self.stall_seconds)

    def murder_pending(self) -> None:
        """End what has taken too long."""
        now = time.monotonic()
        if now < self._swept + 0.5:
            return
        self._swept = now
        for conn, step in self._waiting:
            if now <= conn.deadline or step == self._start or conn in self._paused:
                continue
            if step == self._discard:
                conn.exchange.give_up()
                self._send(conn)
            else:
                self._close(conn)

    def murder_keepalived(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Close what is left when the worker exits; connections between requests are `murder_pending`'s."""
        for conn, _ in self._waiting if force else ():
            self._close(conn)
