"""What waits in a worker: connections for their clients, requests for a thread, callers for their turn."""

import socket

import pytest

from augu_api.fair import FairQueue
from augu_api.operating.connections import Connection, caller_of
from augu_api.operating.pending import AT_ONCE, COUNTED_SECONDS, Pending
from augu_api.operating.waiting import Waiting


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
    pending = Pending[int](60, clock=lambda: now)
    assert pending.next() is None
    for number in range(3 * AT_ONCE):
        pending.add("a", number)
    assert [pending.next() for _ in range(AT_ONCE + 1)] == [*range(AT_ONCE), None]
    pending.end(1)
    assert [pending.next(), pending.next()] == [AT_ONCE, None]
    now += COUNTED_SECONDS * 1.5
    assert [pending.next() for _ in range(AT_ONCE + 1)] == [*range(AT_ONCE + 1, 2 * AT_ONCE + 1), None]


def test_as_many_requests_as_threads() -> None:
    """While all threads are busy, however long, requests wait here, where addresses take turns."""
    now = 100.0
    pending = Pending[int](2, clock=lambda: now)
    for number in range(4):
        pending.add("a", number)
    assert [pending.next(), pending.next()] == [0, 1]
    now += COUNTED_SECONDS * 2
    assert pending.next() is None
    pending.end(0)
    assert [pending.next(), pending.next()] == [2, None]


def test_another_address_is_next() -> None:
    """A request does not wait for the many that another address has sent before."""
    pending = Pending[str](60)
    for number in range(100):
        pending.add("127.0.0.2", f"flood {number}")
    for _ in range(AT_ONCE):
        pending.next()
    pending.add("127.0.0.1", "health")
    pending.end("flood 0")
    assert pending.next() == "health"


def test_a_removed_request_is_not_given_out() -> None:
    """A request whose connection is closed while it waits gets no thread; the others keep their order."""
    pending = Pending[str](60)
    for request in ("a1", "a2", "b1"):
        pending.add(request[0], request)
    pending.remove("b", "b1")
    pending.remove("a", "a1")
    assert [pending.next(), pending.next()] == ["a2", None]


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:1:1", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe81::1%eth0"),
    ],
)
def test_callers(address: str, same: str, other: str) -> None:
    """A caller is an address, in IPv6 a network of 64 bits, as in deploy/nginx.conf."""
    assert caller_of((address, 1)) == caller_of((same, 2)) != caller_of((other, 1))
    assert caller_of("") == ""  # on a socket of the file system


def test_who_makes_room() -> None:
    """The caller with the most connections loses one: an idle one, or else one that reads, or else one that is next."""

    def step(_: Connection) -> None: ...
    def read(_: Connection) -> None: ...
    def start(_: Connection) -> None: ...

    waiting = Waiting()
    made: dict[str, Connection] = {}
    assert waiting.dispensable(read, start) is None
    for name, taken in (("a1", step), ("b1", start), ("b2", read), ("b3", read), ("b4", step), ("b5", step)):
        made[name] = Connection(socket.socket(), (name[0], 1), None)
        waiting.add(made[name], taken)
    closed = []
    for _ in range(5):
        conn = waiting.dispensable(read, start)
        assert conn
        waiting.remove(conn)
        closed.append(next(name for name, other in made.items() if other is conn))
    for conn in made.values():
        conn.sock.close()
    assert closed == ["b4", "b5", "b2", "b3", "a1"]
    assert [waiting.step(made[name]) for name in ("b1", "b2")] == [start, None]
