"""Admission to the detector: a bounded queue, one request at a time, in which the callers take turns."""

import fcntl
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from augu_api.fair import FairQueue
from augu_api.web.rooms import LEAST, QueueFull, Rooms, readers


@dataclass
class Turn:
    """A turn at the detector.

    alone: no other process was handling a request when the turn began, so all cores are free for this one
    milliseconds: how long it took, once it is over
    """

    alone: bool
    milliseconds: float = 0.0


class Turns:
    """Turns, one at a time. The callers who wait take turns; the requests of one caller, in the order they came."""

    def __init__(self) -> None:
        self._change, self._taken, self._waiting = threading.Lock(), False, FairQueue[threading.Lock]()

    @contextmanager
    def take(self, caller: Hashable) -> Iterator[None]:
        """Wait for a turn, and have it."""
        with self._change:
            mine = threading.Lock() if self._taken else None
            if mine:
                mine.acquire()
                self._waiting.put(caller, mine)
            else:
                self._taken, self._waiting.last = True, caller
        if mine:
            mine.acquire()  # until the one before hands over
        try:
            yield
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._change:
            if self._waiting:
                self._waiting.get().release()
            else:
                self._taken = False


class Admission:
    """The detector takes one request at a time; `waiting` more may wait for their turn, a third of them of one caller.

    Processes see each other by `path`, a lock file: each holds a shared lock (flock, which ends with its process)
    while any of its slots is taken. Without the file, no turn is `alone`.

    rooms: the memory for bodies and replies
    drawing: who draws, outside the turn. One at a time, and taken before the turn ends, so that no pictures pile up
    """

    def __init__(self, waiting: int, path: Path | None = None) -> None:
        self._slots, self._share = waiting + 1, max(1, (waiting + 1) // 3)
        self._taken = Counter[Hashable]()
        self._change, self._turns = threading.Lock(), Turns()
        self.rooms, self.drawing = Rooms(readers(waiting) * LEAST), threading.Lock()
        self._file: int | None = None
        if path:
            with suppress(OSError):  # a folder that cannot be written
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                weakref.finalize(self, os.close, self._file)

    @contextmanager
    def slot(self, caller: Hashable) -> Iterator[None]:
        """Hold a slot; raises QueueFull at once if there is none for this caller."""
        with self._change:
            self.check(caller)
            self._taken[caller] += 1
            if self._taken.total() == 1:
                self._lock(fcntl.LOCK_SH)
        try:
            yield
        finally:
            with self._change:
                self._taken -= Counter((caller,))  # forgets who has none
                if not self._taken:
                    self._lock(fcntl.LOCK_UN)

    @contextmanager
    def turn(self, caller: Hashable) -> Iterator[Turn]:
        """Wait for the turn, holding a slot, and time it."""
        with self._turns.take(caller):
            turn, start = Turn(self._alone()), time.perf_counter()
            try:
                yield turn
            finally:
                turn.milliseconds = (time.perf_counter() - start) * 1000

    def check(self, caller: Hashable) -> None:
        """Raise QueueFull if there is no slot for this caller now, or if replies to it take more than its share."""
        taken = self._taken
        if taken.total() == self._slots or taken[caller] == self._share or self.rooms.overdrawn(caller):
            raise QueueFull

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
