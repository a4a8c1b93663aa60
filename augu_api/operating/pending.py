"""The requests that wait for a thread."""

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from augu_api.fair import FairQueue

AT_ONCE = 4
COUNTED_SECONDS = 0.03
Request = TypeVar("Request")


class Pending(Generic[Request]):
    """The requests that wait for a thread; the addresses that they come from take turns.

    Threads that compute wait for the interpreter lock, and among dozens of them a health check would wait too long. So
    only a few requests are given out at once. One that takes longer than 30 ms counts no more: it waits for its body,
    for the detector or for the database. There are never more than there are threads, or the rest would wait in the
    order they came.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads, self._clock = threads, clock
        self._waiting = FairQueue[Request]()
        self._handled: dict[Request, float] = {}  # when each was given out

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, address: Hashable, request: Request) -> None:
        """Let a request wait."""
        self._waiting.put(address, request)

    def remove(self, address: Hashable, request: Request) -> None:
        """Forget a request that waits."""
        self._waiting.remove(address, request)

    def next(self) -> Request | None:
        """The next request for a thread, if there is one and it is not too early for it."""
        if not self._waiting or len(self._handled) >= self._threads or self._counted() >= AT_ONCE:
            return None
        request = self._waiting.get()
        self._handled[request] = self._clock()
        return request

    def end(self, request: Request) -> None:
        """Note that a request has been handled."""
        self._handled.pop(request, None)

    def _counted(self) -> int:
        """How many of the requests that were given out last are being handled."""
        since, counted = self._clock() - COUNTED_SECONDS, 0
        for started in reversed(self._handled.values()):
            if started < since or counted == AT_ONCE:
                break
            counted += 1
        return counted
