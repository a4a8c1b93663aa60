"""How many connections each worker has, in memory that the workers share."""

import mmap
import struct
import time
from collections.abc import Callable

SLOT = struct.Struct("=dq")  # when it was written (time.monotonic), connections
SLOTS = 128
STALE_SECONDS = 3.0  # a worker writes every second; one that does not is dead, or too busy to accept anything


class Shares:
    """The workers' numbers of connections. Workers are numbered; those whose numbers differ by 128 share a slot."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._memory = mmap.mmap(-1, SLOTS * SLOT.size)

    def write(self, worker: int, connections: int) -> None:
        """Tell the other workers how many connections a worker has."""
        SLOT.pack_into(self._memory, worker % SLOTS * SLOT.size, self._clock(), connections)

    def clear(self, worker: int) -> None:
        """Tell the other workers that a worker accepts nothing."""
        SLOT.pack_into(self._memory, worker % SLOTS * SLOT.size, -STALE_SECONDS, 0)

    def least(self) -> int:
        """The smallest number of connections of a worker that accepts connections; 0 if there is none."""
        now = self._clock()
        return min((count for at, count in SLOT.iter_unpack(self._memory) if at > now - STALE_SECONDS), default=0)
