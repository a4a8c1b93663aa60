"""How gunicorn serves wsgi:app. It takes the address from PORT itself."""

import ctypes
import os
import shutil
import tempfile
from contextlib import suppress
from typing import Any

# prometheus_client looks for this when it is imported, and the workers are forked from a process that did so
metrics_dir = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="augu-metrics-")

from prometheus_client import multiprocess

from augu_api.config import Settings, SettingsError
from augu_api.web.rooms import readers

try:
    settings = Settings.from_env()
except SettingsError as error:
    shutil.rmtree(metrics_dir)
    raise SystemExit(f"Error: {error}") from error
wsgi_app = "wsgi:app"
worker_class = "augu_api.operating.worker.FairWorker"
workers = settings.workers
threads = settings.queue + 4 + readers(settings.queue)  # one detects, `queue` wait, the others read bodies and refuse
timeout = 120  # the first start of a worker reads torch from a cold disk
graceful_timeout = 30
keepalive = 30  # for bots that keep a connection
control_socket_disable = True  # one path for all servers of a user
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc; other systems have no mallopt
with suppress(AttributeError):  # threads share what photos need, and what a large one took goes back to the system
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, 2**22)
    mallopt(M_TRIM_THRESHOLD, 2**24)


def child_exit(_: Any, worker: Any) -> None:
    """Forget the gauges of a worker that is gone."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped


def on_exit(_: Any) -> None:
    """Leave no metrics behind."""
    shutil.rmtree(metrics_dir, ignore_errors=True)
