"""The requests that wait for a thread, and the queue in which their callers take turns."""

import pytest

from augu_api.fair import FairQueue
from augu_api.operating.pending import AT_ONCE, COUNTED_SECONDS, Pending


@pytest.mark.parametrize(
    ("put", "got"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 b1 a3 b2 c1", "a1 b1 c1 a2 b2 a3"),
        ("a1 a2 a3 b1", "a1 b1 a2 a3"),
    ],
)
def test_owners_take_turns(put: str, got: str) -> None:
    """Each owner gets a turn, and the items of one owner leave in the order they came."""
    queue = FairQueue[str]()
    for item in put.split():
        queue.put(item[0], item)
    assert [queue.get() for _ in put.split()] == got.split()
    assert not queue


def test_the_last_owner_waits() -> None:
    """Whoever had the last turn gets the next one only if nobody else waits."""
    queue = FairQueue[str]()
    queue.last = "a"
    queue.put("a", "a1")
    queue.put("b", "b1")
    assert queue.get() == "b1"
    queue.put("b", "b2")
    assert [queue.get(), queue.get()] == ["a1", "b2"]


def test_a_few_requests_at_once() -> None:
    """Only a few requests are given out; the next follows when one ends, or has taken so long that it must wait."""
    now = 100.0
    pending = Pending[int](clock=lambda: now)
    assert pending.next() is None
    for number in range(3 * AT_ONCE):
        pending.add("a", number)
    assert [pending.next() for _ in range(AT_ONCE + 1)] == [*range(AT_ONCE), None]
    pending.end(1)
    assert [pending.next(), pending.next()] == [AT_ONCE, None]
    now += COUNTED_SECONDS * 1.5
    assert [pending.next() for _ in range(AT_ONCE + 1)] == [*range(AT_ONCE + 1, 2 * AT_ONCE + 1), None]


def test_another_address_is_next() -> None:
    """A request does not wait for the many that another address has sent before."""
    pending = Pending[str]()
    for number in range(100):
        pending.add("127.0.0.2", f"flood {number}")
    for _ in range(AT_ONCE):
        pending.next()
    pending.add("127.0.0.1", "health")
    pending.end("flood 0")
    assert pending.next() == "health"
