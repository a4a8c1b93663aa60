"""How gunicorn serves the application. It takes the address from PORT itself, if no option names one."""

import ctypes
import itertools
import os
from contextlib import suppress
from typing import Any

from augu_api.config import Settings, SettingsError, override
from augu_api.folders import temporary_folder
from augu_api.web import metric_files
from augu_api.web.rooms import readers

MEMORY = "/dev/shm"  # noqa: S108 - a private file in memory, where there is one; a full or read-only disk does not matter to it
try:
    settings = Settings.from_env()
    metrics_parent = settings.metrics_dir or temporary_folder()
except (SettingsError, OSError) as error:
    raise SystemExit(f"Error: {error}") from error
wsgi_app = "augu_api.operating.wsgi:app"
worker_class = "augu_api.operating.worker.FairWorker"
worker_tmp_dir = MEMORY if os.access(MEMORY, os.W_OK) else str(temporary_folder())
workers = settings.workers
threads = settings.queue + 4 + readers(settings.queue)  # one detects, `queue` wait, the others read bodies and refuse
timeout = 120  # the first start of a worker reads torch from a cold disk
graceful_timeout = 30
keepalive = 30  # for bots that keep a connection
access_log_format = '%(h)s %(t)s "%(m)s %(U)s" %(s)s %(B)s'  # if it is switched on: without queries, which hold tokens
control_socket_disable = True  # one path for all servers of a user
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc; other systems have no mallopt
with suppress(AttributeError):  # threads share what photos need, and what a large one took goes back to the system
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, 2**22)
    mallopt(M_TRIM_THRESHOLD, 2**24)


def when_ready(server: Any) -> None:
    """Make the folder of the workers' metrics. It belongs to the server, as a reload reads this file again."""
    try:
        server.metrics = metric_files.ServerFolder(metrics_parent)
    except OSError as error:
        raise SystemExit(f"Error: PROMETHEUS_MULTIPROC_DIR: {error}") from error


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new worker the lowest number that no running worker has."""
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in itertools.count() if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Share the worker's metrics, before anything measures. A full disk does not keep it from serving."""
    try:
        metric_files.share(server.metrics.path, worker.number)
        override(metrics_dir=server.metrics.path)
    except OSError as error:
        override(metrics_dir=None)
        metric_files.share(None, worker.number)
        server.log.warning("This worker's metrics cannot be shared: %s", error)


def child_exit(server: Any, worker: Any) -> None:
    """Forget the gauges of a worker that is gone."""
    server.metrics.forget(worker.number)


def on_exit(server: Any) -> None:
    """Leave no metrics behind."""
    server.metrics.remove()
