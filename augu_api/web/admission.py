"""Admission to the detector: a bounded queue, one request at a time."""

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class QueueFull(Exception):
    """All slots are taken."""


@dataclass
class Turn:
    """A turn at the detector.

    alone: no other process was handling a request when the turn began, so all cores are free for this one
    milliseconds: how long it took, once it is over
    """

    alone: bool
    milliseconds: float = 0.0


class Admission:
    """The detector takes one request at a time; `waiting` more may wait for their turn.

    Processes see each other by `path`, a lock file: each holds a shared lock (flock, which ends with its process)
    while any of its slots is taken. Without the file, no turn is `alone`.
    """

    def __init__(self, waiting: int, path: Path | None = None) -> None:
        self._slots, self._taken = waiting + 1, 0
        self._change, self._turn = threading.Lock(), threading.Lock()
        self._file: int | None = None
        if path:
            with suppress(OSError):  # a folder that cannot be written
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                weakref.finalize(self, os.close, self._file)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot; raises QueueFull at once if there is none."""
        with self._change:
            if self._taken == self._slots:
                raise QueueFull
            self._taken += 1
            if self._taken == 1:
                self._lock(fcntl.LOCK_SH)
        try:
            yield
        finally:
            with self._change:
                self._taken -= 1
                if not self._taken:
                    self._lock(fcntl.LOCK_UN)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wait for the turn, holding a slot, and time it."""
        with self._turn:
            turn, start = Turn(self._alone()), time.perf_counter()
            try:
                yield turn
            finally:
                turn.milliseconds = (time.perf_counter() - start) * 1000

    def _alone(self) -> bool:
        """Whether no other process holds the lock: try the exclusive lock, then go back to the shared one."""
        try:
            return self._lock(fcntl.LOCK_EX)
        finally:
            self._lock(fcntl.LOCK_SH)

    def _lock(self, kind: int) -> bool:
        """Change the lock on the file; False if another process prevents it, or there is no file."""
        with suppress(OSError):
            if self._file is not None:
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                return True
        return False
