"""The gunicorn worker: its start, how it shares connections with the other workers, and its stop."""

import errno
import resource
import sys
import time
from typing import Any

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]  # gunicorn has no types
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError

from augu_api.config import SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.operating.connections import Connection, settled
from augu_api.operating.loop import Loop
from augu_api.operating.shares import Shares
from augu_api.store.database import explain

SPARE_FILES = 256  # beside connections: the database, the metrics, the model


class FairWorker(Loop):
    """A worker that accepts a fair share of the connections, starts with clear errors, and stops cleanly.

    All workers are told about a new connection, and the first to accept it gets it. That would mostly be the worker
    that is awake already, so a worker first waits for those that have fewer connections. A subclass that
    `gunicorn --worker-class` names can set other values; the tests do.
    """

    patience_seconds = 3e-3
    restart_seconds = 1.0
    stopping_switch_interval = 1e-5
    """Seconds between thread switches while the port is closed; in the default of 5 ms more clients could connect."""

    shares = Shares()  # made before the workers are forked, so that they have it in common

    def init_process(self) -> None:
        """Prepare this process, load the application, and serve until the end."""
        if self.cfg.is_ssl:
            self._exit("gunicorn's own TLS is not supported: put nginx in front", Arbiter.WORKER_BOOT_ERROR)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            self.worker_connections = min(self.worker_connections, max(files - SPARE_FILES, files // 2))
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application. If an operator's mistake prevents that, the server exits with one line about it.

        A worker that replaces another one while the database is down, or a file is missing, exits alone, and the next
        one tries again.
        """
        try:
            super().load_wsgi()
            self.wsgi = settled(self.wsgi)
        except (SettingsError, ModelUnavailable, DBAPIError, StorageError) as error:
            reason = explain(error) if isinstance(error, DBAPIError | StorageError) else str(error)
            if self.age <= self.cfg.workers:  # one of the first workers: the server is starting
                self._exit(reason, Arbiter.WORKER_BOOT_ERROR)
            time.sleep(self.restart_seconds)
            self._exit(reason, 1)

    def _exit(self, reason: str, code: int) -> None:
        self.log.error("Error: %s", reason)
        sys.exit(code)

    def notify(self) -> None:
        """Report that the worker is alive, as its loop does every second, to gunicorn and to the other workers."""
        super().notify()
        self.count(0)

    def count(self, change: int) -> None:
        """Count connections, and tell the other workers."""
        super().count(change)
        if self._accepting:
            self.shares.write(self.age, self.nr_conns)

    def accept(self, listener: Any) -> None:
        """Accept a connection if no worker that has fewer takes it."""
        until = time.monotonic() + self.patience_seconds
        while self.nr_conns > self.shares.least() and time.monotonic() < until:
            time.sleep(self.patience_seconds / 10)
        self._accept(listener)

    def _accept(self, listener: Any) -> bool:
        """Accept a connection; whether there was one."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return False
        if self.nr_conns >= self.worker_connections - 1:  # with as many, gunicorn would accept no more
            self.make_room()
        self.add(Connection(sock, client, listener.getsockname()))
        return True

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        """Start or stop accepting connections; a worker that is shutting down also closes its port.

        gunicorn would keep the port open until the last request is answered, and then reset the clients that have
        connected meanwhile. A proxy may send a refused connection's request to another host, but not a reset one's,
        which this host might have read. So the worker accepts everyone who is waiting, and then refuses connections.
        """
        stopped_while_starting = enabled and not self.alive
        if not stopped_while_starting:
            super().set_accept_enabled(enabled)
        if self.alive or stopped_while_starting:  # in the second case gunicorn calls this once more at once
            return
        sys.setswitchinterval(self.stopping_switch_interval)
        for listener in self.sockets:
            while self._accept(listener):
                pass
            listener.close()
        self.shares.clear(self.age)
        self.hurry()
