"""The line in front of a detector: how many requests may wait for it, whose turn it is, and who is alone."""

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


class LineFull(Exception):
    """Nobody else can wait now."""


@dataclass
class Turn:
    """A turn at the detector.

    alone: no other process had anybody in its line when the turn began, so all cores are free for this one
    milliseconds: how long it took, once it is over
    """

    alone: bool
    milliseconds: float = 0.0


class Line:
    """One request at a time has the detector's turn, `waiting` more may wait for it.

    Processes see each other's lines by `path`, a file on which each has a shared lock (flock, which ends with its
    process) while anybody is in its line. Without such a file none knows that it is alone.
    """

    def __init__(self, waiting: int, path: Path | None = None) -> None:
        self._places, self._taken = waiting + 1, 0
        self._change, self._turn = threading.Lock(), threading.Lock()
        self._file: int | None = None
        if path:
            with suppress(OSError):  # a folder that cannot be written
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                weakref.finalize(self, os.close, self._file)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the line; raises LineFull at once if there is none."""
        with self._change:
            if self._taken == self._places:
                raise LineFull
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
        """Wait for the turn, with a place in the line, and time it."""
        with self._turn:
            turn, start = Turn(self._alone()), time.perf_counter()
            try:
                yield turn
            finally:
                turn.milliseconds = (time.perf_counter() - start) * 1000

    def _alone(self) -> bool:
        """Whether the lock can be had exclusively; it is not kept so."""
        try:
            return self._lock(fcntl.LOCK_EX)
        finally:
            self._lock(fcntl.LOCK_SH)

    def _lock(self, kind: int) -> bool:
        """Lock the file in another way; False if others do not let it, or there is none."""
        with suppress(OSError):
            if self._file is not None:
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                return True
        return False
