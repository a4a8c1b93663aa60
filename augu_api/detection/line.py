"""The line in front of a detector: how many requests may wait for it, and whose turn it is."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class LineFull(Exception):
    """Nobody else can wait now."""


@dataclass
class Turn:
    """A turn at the detector; `milliseconds` is how long it took, once it is over."""

    milliseconds: float = 0.0


class Line:
    """One request at a time has the detector's turn, `waiting` more may wait for it."""

    def __init__(self, waiting: int) -> None:
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._turn = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the line; raises LineFull at once if there is none."""
        if not self._places.acquire(blocking=False):
            raise LineFull
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wait for the turn, and time it."""
        with self._turn:
            turn, start = Turn(), time.perf_counter()
            try:
                yield turn
            finally:
                turn.milliseconds = (time.perf_counter() - start) * 1000
