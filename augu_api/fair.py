"""A queue in which nobody can keep the others waiting."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue whose items have owners. The owners take turns; the items of one owner leave in the order they came.

    last: the owner of the item that left last, who waits for the others
    """

    def __init__(self) -> None:
        self.last: Hashable = None
        self._items: dict[Hashable, deque[Item]] = {}  # by owner, the next one first

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, owner: Hashable, item: Item) -> None:
        """Add an item."""
        self._items.setdefault(owner, deque()).append(item)

    def get(self) -> Item:
        """Take the next item; the queue must not be empty."""
        owner = self.last = next((owner for owner in self._items if owner != self.last), self.last)
        items = self._items.pop(owner)
        item = items.popleft()
        if items:
            self._items[owner] = items  # behind the others
        return item

    def remove(self, owner: Hashable, item: Item) -> None:
        """Remove an item, which must be there."""
        self._items[owner].remove(item)
        if not self._items[owner]:
            del self._items[owner]
