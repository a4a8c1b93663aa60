"""How gunicorn serves wsgi:app. It takes the address from PORT itself."""

import os
import shutil
import tempfile
from typing import Any

from prometheus_client import multiprocess

from augu_api.config import Settings

settings = Settings.from_env()
wsgi_app = "wsgi:app"
worker_class = "gthread"
workers = settings.workers
threads = settings.queue + 4  # one detects, `queue` wait, the others answer health checks and refusals
timeout = 120  # the first start of a worker reads torch from a cold disk
graceful_timeout = 30
keepalive = 30  # longer than nginx keeps its connections
control_socket_disable = True  # one path for all servers of a user
metrics_dir = tempfile.mkdtemp(prefix="augu-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir


def child_exit(_: Any, worker: Any) -> None:
    """Forget the gauges of a worker that is gone."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_: Any) -> None:
    """Leave no metrics behind."""
    shutil.rmtree(metrics_dir, ignore_errors=True)
