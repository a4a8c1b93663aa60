"""One user against the others: a user with a photo every half second, alone and beside each attack.

Each attack meets a fresh gunicorn with its defaults and DeepStack's protocol, and PostgreSQL; first direct, then behind
nginx. The promises: 95 % of the photos get 200, their 95th percentile is less than a second above what it is alone,
99.5 % of the health checks take less than 100 ms and none a second.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from augu_api.config import CORES
from tests.helpers import OBJECTS
from tests.servers import Postgres, Server, add, fronting, photo, serving
from tests.soak.attacks import AMPLE, ATTACKS, BOTH, FRONTED, Attack, Seen, Target, attack
from tests.soak.calls import HEALTH_MS, Reply, Row, progress, quantile, timed

PHOTOS = ("chelsea", "coffee")  # less than 1 MB; nginx limits how many larger ones an address may send in a second
PAUSE = 0.5
TIMEOUT = 30.0  # seconds, after which a client gives up
LEAD = 4.0  # seconds that an attack has before it is watched
START = 8.0  # seconds, roughly, that the servers of an attack take to start and to stop
ANSWERED, LATER_MS, RATE = 0.95, 1000.0, 0.8
HEALTHY, UNHEALTHY_MS = 0.995, 1000.0


class Watched(NamedTuple):
    """The replies to the photos of a user, and to the health checks, in so many seconds."""

    photos: list[Reply]
    health: list[Reply]
    seconds: float

    @property
    def answered(self) -> list[float]:
        """The milliseconds of the photos that got 200, in order."""
        return sorted(reply.milliseconds for reply in self.photos if reply.status == 200)

    @property
    def rate(self) -> float:
        """Photos that got 200 in a second."""
        return len(self.answered) / self.seconds

    @property
    def p95(self) -> float:
        """The 95th percentile of the answered photos, in milliseconds."""
        return quantile(self.answered, 0.95) if self.answered else float("inf")


photo_of = cache(photo)


def watch(port: int, token: str, until: float, pause: float) -> Watched:
    """Send photos with pauses, and health checks from many addresses, because nginx limits each."""
    for name in PHOTOS:
        photo_of(name)
    start = time.time()

    def repeated(call: Callable[[int], Reply], pause: float) -> list[Reply]:
        replies = [call(0)]
        while time.time() < until:
            time.sleep(pause)
            replies.append(call(len(replies)))
        return replies

    def send_photo(number: int) -> Reply:
        return timed(port, OBJECTS, photo_of(PHOTOS[number % len(PHOTOS)]), token, timeout=TIMEOUT)

    def check_health(number: int) -> Reply:
        return timed(port, "/health/live", source=f"127.0.1.{number % 50 + 1}", timeout=TIMEOUT)

    with ThreadPoolExecutor(2) as pool:
        photos, health = pool.submit(repeated, send_photo, pause), pool.submit(repeated, check_health, 0.1)
        return Watched(photos.result(), health.result(), time.time() - start)


class Installed(NamedTuple):
    """A running installation, the port that clients use, and the tokens of the user and of the attacker."""

    server: Server
    port: int
    token: str
    attacker: str


@contextmanager
def installed(database: Postgres, way: str, coefficient: float = AMPLE) -> Iterator[Installed]:
    """Start the servers, and send them some photos, so that each worker is ready."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        front = closing.enter_context(fronting(folder))
        server = closing.enter_context(serving(folder))(
            DATABASE_URL=database.emptied(), AUGU_DEEPSTACK="1", WEB_CONCURRENCY=str(CORES)
        )
        token, attacker = add(server, "user", AMPLE), add(server, "attacker", coefficient)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(20):
                pool.submit(timed, server.port, OBJECTS, photo("coffee"), token)
        yield Installed(server, front(server.port) if way == FRONTED else server.port, token, attacker)


class Processes(NamedTuple):
    """Processes of their own for the attackers and for the others, so that neither waits for the other."""

    attackers: ProcessPoolExecutor
    others: ProcessPoolExecutor


def beside(
    processes: Processes, database: Postgres, way: str, what: Attack, seconds: float
) -> tuple[Watched, Seen, str]:
    """Watch a user beside an attack; also what the attackers saw, and what came of the workers."""
    with installed(database, way, what.coefficient) as here:
        workers = here.server.workers
        requests = (what.request(here.attacker),)
        until = time.time() + LEAD + seconds
        attacking = processes.attackers.submit(attack, what.connections, what.act, Target(here.port, until, requests))
        time.sleep(LEAD)
        watched = processes.others.submit(watch, here.port, here.token, until, 0 if what.busy else PAUSE).result()
        seen = attacking.result()
        lost = "" if here.server.workers == workers else "; BROKEN: a worker died"
        return watched, seen, f"largest worker {peak(here.server):.0f} MB{lost}"


def peak(server: Server) -> float:
    """The most memory that a worker has used so far, in MB."""
    statuses = [Path(f"/proc/{worker}/status").read_text() for worker in server.workers]
    return max(int(status.split("VmHWM:")[1].split()[0]) for status in statuses) * 1024 / 1e6


def broken(what: Attack, watched: Watched, alone: Watched) -> Iterator[str]:
    """Yield the promises that were not kept."""
    if len(watched.answered) < ANSWERED * len(watched.photos):
        yield "replies"
    if watched.p95 >= alone.p95 + LATER_MS:
        yield "p95"
    if within(watched.health) < HEALTHY or slowest(watched.health) >= UNHEALTHY_MS:
        yield "health"
    if what.busy and (watched.rate < RATE * alone.rate or any(reply.status == 503 for reply in watched.photos)):
        yield "rate"


def within(health: list[Reply]) -> float:
    """The share of the health checks that got 200 in less than HEALTH_MS."""
    return sum(reply.status == 200 and reply.milliseconds < HEALTH_MS for reply in health) / len(health)


def slowest(health: list[Reply]) -> float:
    """The milliseconds of the slowest health check, whatever it got."""
    return max(reply.milliseconds for reply in health)


def described(watched: Watched) -> str:
    """What the user and the health checks saw."""
    share, healthy = 100 * len(watched.answered) / len(watched.photos), 100 * within(watched.health)
    times = f"p50 {quantile(watched.answered, 0.5):.0f} ms, p95 {watched.p95:.0f} ms, " if watched.answered else ""
    return (
        f"{share:.1f} % x 200, {times}{watched.rate:.1f} a second; "
        f"health {healthy:.1f} % within {HEALTH_MS:.0f} ms, slowest {slowest(watched.health):.0f} ms"
    )


def run(seconds: float, only: str) -> Iterator[Row]:
    """Yield a row for the user alone, and one for each attack, or for those with `only` in their names."""
    runs = [(way, name) for way in BOTH for name, what in ATTACKS.items() if way in what.ways and only in name]
    each = min(60.0, max(5.0, seconds / (len(runs) + len(BOTH)) - START))
    yield "**one user against the others**", 1, f"{each:.0f} s for each attack"
    with ExitStack() as closing:
        database = Postgres.made()
        closing.callback(database.remove)
        spawn = get_context("spawn")
        processes = Processes(*(closing.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(2)))
        for way in BOTH:
            alone = {}
            with installed(database, way) as here:
                for pause in (PAUSE, 0):
                    until = time.time() + each / 2
                    alone[pause] = processes.others.submit(watch, here.port, here.token, until, pause).result()
                    about = "a photo every half second" if pause else "photos without a pause"
                    row = f"{way}, alone: {about}", len(alone[pause].photos), described(alone[pause])
                    progress(" | ".join(map(str, row)))
                    yield row
            for name in [name for where, name in runs if where == way]:
                what = ATTACKS[name]
                watched, seen, workers = beside(processes, database, way, what, each)
                faults = ", ".join(broken(what, watched, alone[0 if what.busy else PAUSE]))
                result = f"{f'BROKEN ({faults}): ' if faults else ''}{described(watched)}; {workers}"
                progress(f"{way}, {name} | {len(watched.photos)} | {result}\n    the attackers saw {dict(seen)}")
                yield f"{way}, {name}", len(watched.photos), result
