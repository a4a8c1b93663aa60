"""The gunicorn worker: threads, and the calls shared fairly among the workers."""

import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

DELAY = 0.001  # seconds for each open connection


class FairWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gthread worker that lets others take a new connection first, the longer the more it has itself.

    All workers are woken by a new connection and the first takes it. The one that is awake already would take most.
    """

    def accept(self, listener: Any) -> None:
        """Wait, then take the connection if it is still there."""
        time.sleep(min(self.nr_conns, 10) * DELAY)
        super().accept(listener)
