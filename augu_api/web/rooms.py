"""The memory that bodies and replies may take in a worker, shared fairly between the callers."""

import threading
from collections import Counter
from collections.abc import Hashable

MB = 2**20
LEAST = MB  # what a body counts for at least, which bounds how many are read at once


class QueueFull(Exception):
    """Too many requests are waiting, of all callers or of this one."""


def readers(waiting: int) -> int:
    """How many bodies a worker reads at once if `waiting` requests may wait for its detector."""
    return max(48, waiting + 1)


class Room:
    """What a request holds of the memory: its body at first, then its reply until that has left."""

    def __init__(self, rooms: "Rooms", caller: Hashable) -> None:
        self._rooms, self.caller, self.size = rooms, caller, 0

    def give_to(self, caller: Hashable) -> None:
        """Count it for another caller; raises QueueFull if that one has no room for it."""
        self._rooms.change(self, caller, self.size)

    def resize(self, size: int) -> None:
        """Count it for `size` bytes from now on, even if that is more than the caller's share."""
        self._rooms.change(self, self.caller, size, refuse=False)

    def release(self) -> None:
        """Hold nothing any more."""
        self.resize(0)


class Rooms:
    """A budget of `size` bytes, of which a caller is given at most a third."""

    def __init__(self, size: int) -> None:
        self._size, self._share = size, size // 3
        self._change, self._held = threading.Lock(), Counter[Hashable]()

    def take(self, caller: Hashable, size: int) -> Room:
        """Room for a body of `size` bytes; raises QueueFull if the caller or the worker has none left."""
        room = Room(self, caller)
        self.change(room, caller, max(size, LEAST))
        return room

    def overdrawn(self, caller: Hashable) -> bool:
        """Whether the caller's replies take more than a share: their sizes are not known beforehand."""
        return self._held[caller] > self._share

    def check_reply(self, caller: Hashable) -> None:
        """Raise QueueFull if replies that have not left take too much memory for another large one to be made."""
        if self.overdrawn(caller) or self._held.total() > self._size:
            raise QueueFull

    def change(self, room: Room, caller: Hashable, size: int, *, refuse: bool = True) -> None:
        """Count a room for a caller and a size. Raises QueueFull, and changes nothing, if that does not fit."""
        with self._change:
            held = self._held.copy()
            held[room.caller] -= room.size
            if refuse and not self._fits(held, caller, size):
                raise QueueFull
            held[caller] += size
            self._held = +held  # without those who hold nothing
            room.caller, room.size = caller, size

    def _fits(self, held: Counter[Hashable], caller: Hashable, size: int) -> bool:
        """Nobody counts for more than a share, so that large replies to one caller do not refuse the others."""
        all_held = sum(min(taken, self._share) for taken in held.values())
        return held[caller] + size <= self._share and all_held + size <= self._size
