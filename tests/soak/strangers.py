"""Other HTTP clients against refusals: every refusal must reach its client, direct and behind nginx with two hosts.

The clients are programs in tests/strangers. Each keeps 4 connections alive, as long as the server does. A client that
is not installed is named in the table and left out.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from tests.helpers import LOOPBACK, OBJECTS, wait_until
from tests.png_encoder import black
from tests.servers import Server, add, fronting, serving
from tests.soak.attacks import AMPLE, BOTH, DIRECT, Connection, Target, attack, photo_of
from tests.soak.calls import Row, progress, timed
from tests.strangers.running import PROGRAMS, SIZES, Refusal, Replies, body_of, replies
from tests.strangers.task import CONNECTIONS

WORKERS = 4  # of each host: refused bodies are read at a limited rate in each
AT_ONCE = 3  # clients: the bodies of all would not fit into the workers' memory for bodies, which is another refusal
WHOLE = 900.0  # seconds, roughly, in which each client can be refused FULL times in each way
FULL = 200
MOSTLY = 0.5
BUSY_USERS = 4  # more than enough to take all slots, of which a user gets a third
STATUSES = (401, 406, 429, 503)


@contextmanager
def busy(servers: list[Server], requests: tuple[bytes, ...], token: str) -> Iterator[None]:
    """Several users send photos that take long to decode, so that nearly all slots are taken: the token finds none."""
    context = get_context("spawn")
    running = [
        context.Process(
            target=attack,
            args=(16 * WORKERS, Connection.call_again_and_again, Target(server.port, float("inf"), requests)),
        )
        for server in servers
    ]
    for process in running:
        process.start()
    try:
        for server in servers:
            wait_until(lambda port=server.port: timed(port, OBJECTS, b"A", token).status == 503)  # type: ignore[misc]
        yield
    finally:
        for process in running:
            process.terminate()
            process.join()


def differing(status: int, outcome: Replies) -> int:
    """How many replies had another status. Up to half of the requests may find a free slot; their bodies are bad."""
    others = Counter({got: times for got, times in outcome.statuses.items() if got != status})
    if status == 503 and others[400] <= MOSTLY * outcome.statuses.total():
        del others[400]
    return others.total()


class Refusals:
    """The refusals by two servers, whose users have no requests left, or whose slots are taken."""

    def __init__(self, servers: list[Server], ports: dict[str, int], folder: Path, times: int) -> None:
        self.servers, self.ports, self.folder, self.times = servers, ports, folder, times
        self.good = add(servers[0], "good", AMPLE)
        users = [add(servers[0], f"busy{number}", AMPLE) for number in range(BUSY_USERS)]
        self.photos = tuple(photo_of(black(5000), token) for token in users)
        self.numbers = count()

    def of(self, status: int) -> Refusal:
        """What to send to be refused with the status. After 50 refusals a user would be banned: 403, not 429."""
        if status == 401:
            return Refusal(401, ("x",))
        if status == 503:
            return Refusal(503, (self.good,))
        coefficient = 0 if status == 429 else AMPLE
        users = (add(self.servers[0], f"user{next(self.numbers)}", coefficient) for _ in range(CONNECTIONS))
        return Refusal(status, tuple(users), accept="text/html" if status == 406 else "application/json")

    def cells(self, way: str, clients: list[str]) -> Iterator[tuple[str, str, Replies, int]]:
        """Yield each client, what it was refused, its replies, and how many of them had another status."""
        for status in STATUSES:
            servers = self.servers[:1] if way == DIRECT else self.servers
            with busy(servers, self.photos, self.good) if status == 503 else ExitStack():
                for size, letters in SIZES.items():
                    outcomes = self._at_once(way, status, body_of(self.folder, letters), clients)
                    for name, outcome in zip(clients, outcomes, strict=True):
                        progress(f"{way}, {name}, {status}, {size}: {dict(outcome.statuses)} {dict(outcome.lost)}")
                        yield name, f"{status} {size}", outcome, differing(status, outcome)

    def _at_once(self, way: str, status: int, body: Path, clients: list[str]) -> list[Replies]:
        """What each client gets, a few of them at the same time."""
        url = f"http://{LOOPBACK}:{self.ports[way]}{OBJECTS}"
        refusals = [self.of(status) for _ in clients]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(
                pool.map(lambda name, refusal: replies(name, url, refusal, body, self.times), clients, refusals)
            )


def of_client(cells: list[tuple[str, Replies, int]]) -> str:
    """The result of a client's cells."""
    faults = []
    for what, outcome, others in cells:
        if outcome.lost:
            faults.append(f"{what}: {outcome.lost.total()} lost ({', '.join(outcome.lost)})")
        if others:
            faults.append(f"{what}: {others} others {dict(outcome.statuses)}")
    return f"BROKEN: {'; '.join(faults)}" if faults else "each got its reply"


def run(seconds: float, only: str) -> Iterator[Row]:
    """Yield a row for each client, or only for those with `only` in their names, and each way."""
    named = {name: program for name, program in PROGRAMS.items() if only in name}
    clients = [name for name, program in named.items() if not program.lacks]
    times = max(20, int(min(1, seconds / WHOLE) * FULL) // 20 * 20)
    yield "**refusals of other clients**", 1, f"{times} for each status and size"
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        start = closing.enter_context(serving(folder))
        servers = [start(WEB_CONCURRENCY=str(WORKERS)) for _ in range(2)]
        port = closing.enter_context(fronting(folder))(*(server.port for server in servers), balancer=LOOPBACK)
        refusals = Refusals(servers, dict(zip(BOTH, (servers[0].port, port), strict=True)), folder, times)
        for way in BOTH:
            found = defaultdict(list)
            for name, what, outcome, others in refusals.cells(way, clients):
                found[name].append((what, outcome, others))
            for name, cells in found.items():
                total = sum((outcome.statuses + outcome.lost).total() for _, outcome, _ in cells)
                yield f"{way}, {name}", total, of_client(cells)
        for name in named.keys() - clients:
            yield name, 0, f"not run: {named[name].lacks} is not installed"
