"""Load, faults and hostile input against a real installation for a while: `make soak MINUTES=30`.

It runs nginx with deploy/nginx.conf, gunicorn with its defaults, and PostgreSQL. For the first third, or 5 minutes,
there is only load. At the end a table lists each action, how often it was done, and the outcome; the exit status is 1
if a promise was broken.
"""

import http.client
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import psutil
from tabulate import tabulate

from tests.helpers import OBJECTS, wait_until
from tests.hostile import ask, bodies, lines, photos, tokens
from tests.servers import Postgres, Server, add, call, fronting, photo, serving

CLIENTS = 64
HEALTH_MS = 100.0
GROWTH = 1.05
GONE = 10  # seconds without a database
THREADS = 12  # of a worker
PHOTOS = ("astronaut", "chelsea", "coffee")
ALLOWED = {200, 429, 503}
LIMIT = 60_000  # requests a minute of the user who counts


class Reply(NamedTuple):
    """When it came, its status (0: no reply), the milliseconds, whether it has Retry-After, and the requests left."""

    at: float
    status: int
    milliseconds: float
    retry: bool
    left: int | None = None


def timed(port: int, path: str, body: bytes | None = None, token: str = "") -> Reply:
    """Send a request on a new connection."""
    start = time.perf_counter()
    try:
        reply = call(port, path, body, token)
    except (OSError, http.client.HTTPException):
        return Reply(time.time(), 0, (time.perf_counter() - start) * 1000, False)
    left = reply.headers["X-Ratelimit-Remaining"]
    milliseconds = (time.perf_counter() - start) * 1000
    retry = "Retry-After" in reply.headers
    return Reply(time.time(), reply.status, milliseconds, retry, None if left is None else int(left))


def repeated(
    port: int, path: str, pause: float, until: float, body: bytes | None = None, token: str = ""
) -> list[Reply]:
    """Send requests in a loop; after a refusal wait a second, as Retry-After says."""
    replies = []
    while time.time() < until:
        replies.append(timed(port, path, body, token))
        time.sleep(1 if replies[-1].status in (0, 429, 503) and body else pause)
    return replies


def crowd(port: int, user_tokens: list[str], until: float) -> list[Reply]:
    """Send photos from many clients at once."""
    images = [photo(name) for name in PHOTOS]
    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [
            pool.submit(repeated, port, OBJECTS, 0, until, images[n % len(images)], user_tokens[n % len(user_tokens)])
            for n in range(CLIENTS)
        ]
        return [reply for job in jobs for reply in job.result()]


def miscounted(replies: list[Reply]) -> int:
    """How often the remaining requests did not fall by exactly one, for a user with a single client.

    A request without a reply may or may not have been counted.
    """
    wrong, last, doubt = 0, None, 0
    for reply in replies:
        if reply.left is None:
            doubt += 1
            continue
        whole = LIMIT - 1
        same_window = last is not None and 1 <= last - reply.left <= 1 + doubt
        new_window = whole - doubt <= reply.left <= whole
        wrong += not (same_window or new_window)
        last, doubt = reply.left, 0
    return wrong


# --- the faults


@dataclass
class Installation:
    """The running servers, and the outcomes of each fault."""

    server: Server
    port: int
    database: Postgres
    done: dict[str, list[str]] = field(default_factory=dict)

    def worker_killed(self) -> str:
        """Kill a worker with SIGKILL; how long until a new one runs."""
        victim, workers, start = random.choice(self.server.workers), len(self.server.workers), time.time()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in self.server.workers and len(self.server.workers) == workers)
        wait_until(self.server.is_ready)
        return f"a new one after {time.time() - start:.1f} s"

    def workers_renewed(self) -> str:
        """Replace all workers by a reload."""
        before = set(self.server.workers)
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(self.server.workers) and len(self.server.workers) == len(before), 90)
        wait_until(self.server.is_ready)
        return "all are new"

    def database_gone(self) -> str:
        """Stop PostgreSQL for a while; how long after its restart until requests are answered."""
        start = time.time()
        self.database.stop()
        during = []
        while time.time() < start + GONE:
            during.append(timed(self.port, "/session", token=self._some_token()).status)
            time.sleep(0.5)
        self.database.start()
        back = time.time()
        wait_until(lambda: timed(self.port, "/session", token=self._some_token()).status == 200)
        passed = [status for status in during if status != 503]
        return f"{'503 meanwhile' if not passed else f'BROKEN: {passed}'}, back {time.time() - back:.1f} s after it"

    def slow_clients(self) -> str:
        """Thirty clients send a byte a second through nginx; meanwhile photos are answered."""
        head = f"POST {OBJECTS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
        with ThreadPoolExecutor(1) as pool:
            clients = [socket.create_connection(("127.0.0.1", self.port), timeout=60) for _ in range(30)]
            answered = pool.submit(lambda: timed(self.port, "/session", token=self._some_token()).status)
            for at in range(15):
                for client in clients:
                    with suppress(OSError):
                        client.sendall(head[at : at + 1])
                time.sleep(1)
            status = answered.result()
        for client in clients:
            client.close()
        return "others are answered meanwhile" if status == 200 else f"BROKEN: {status}"

    def clients_gone(self) -> str:
        """A hundred clients with a valid token disconnect in the middle of a photo, half of them without nginx."""
        body = photo("chelsea")
        head = f"POST {OBJECTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._some_token()}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for n in range(100):
            with socket.create_connection(("127.0.0.1", (self.port, self.server.port)[n % 2]), timeout=60) as client:
                client.sendall(request[: random.randrange(len(request))])
        return "nothing is left of them" if self._ready() == 200 else "BROKEN: not ready"

    def hostile_requests(self) -> str:
        """Each hostile request of tests/test_hostile.py, straight to gunicorn."""
        good = self._some_token()
        auth: dict[str, str | bytes] = {"Authorization": f"Bearer {good}"}
        cases = tokens(good) | photos(auth) | bodies(auth) | lines(auth)
        wrong, slowest = [], 0.0
        for name, case in cases.items():
            status, _, seconds = ask(self.server.port, case)
            slowest = max(slowest, seconds)
            if status not in (case.status, 503):  # all slots may be taken
                wrong.append(f"{name}: {status}")
        return f"{len(cases)} as documented, the slowest {slowest:.1f} s" if not wrong else f"BROKEN: {wrong}"

    def token_replaced(self) -> str:
        """Regenerate a token: the old one stops working, the new one works."""
        old = self.server.run("tokens", "regenerate", "replaced").strip()
        new = self.server.run("tokens", "regenerate", "replaced").strip()
        seen = [timed(self.port, "/session", token=token).status for token in (old, new)]
        return "only the new one is taken" if seen == [401, 200] else f"BROKEN: {seen}"

    def user_banned(self) -> str:
        """Ban and unban a user: no request passes in between."""
        token = self.server.run("tokens", "regenerate", "replaced").strip()
        self.server.run("users", "ban", "replaced")
        banned = {timed(self.port, "/session", token=token).status for _ in range(20)}
        self.server.run("users", "unban", "replaced")
        seen = banned, timed(self.port, "/session", token=token).status
        return "403 at once, 200 after it" if seen == ({403}, 200) else f"BROKEN: {seen}"

    def _ready(self) -> int:
        return timed(self.server.port, "/health/ready").status

    def _some_token(self) -> str:
        return self.server.env["SOAK_TOKEN"]


FAULTS = [
    Installation.worker_killed,
    Installation.hostile_requests,
    Installation.clients_gone,
    Installation.token_replaced,
    Installation.workers_renewed,
    Installation.slow_clients,
    Installation.user_banned,
    Installation.database_gone,
]


def memory(server: Server) -> float:
    """Megabytes of gunicorn and its workers: their proportional set size."""
    master = psutil.Process(server.process.pid)
    total = 0.0
    for process in [master, *master.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


class Held(NamedTuple):
    """The memory that was used at a point in time."""

    at: float
    megabytes: float


def go_on(installation: Installation, peace: float, until: float) -> list[Held]:
    """Cause one fault after the other after `peace`, with pauses; measure the memory all the time.

    The last minute has no faults either, so that its memory can be compared with the first minute's.
    """
    held, at = [], 0
    while time.time() < until:
        if peace < time.time() < until - 90:
            fault = FAULTS[at % len(FAULTS)]
            installation.done.setdefault(fault.__name__, []).append(fault(installation))
            print(f"{fault.__name__}: {installation.done[fault.__name__][-1]}", file=sys.stderr, flush=True)
            at += 1
        for _ in range(5):
            held.append(Held(time.time(), memory(installation.server)))
            time.sleep(1)
    return held


# --- the outcome

Row = tuple[str, int, str]


def of_photos(load: list[Reply], cuts: int) -> Iterator[Row]:
    """Yield the outcome of the photos, of which killed workers may cut off up to `cuts`."""
    statuses = Counter(reply.status for reply in load)
    good = sorted(reply.milliseconds for reply in load if reply.status == 200)
    odd = {status: count for status, count in statuses.items() if status not in ALLOWED}
    cut_off = odd.pop(0, 0)
    silent = sum(reply.status == 503 and not reply.retry for reply in load)
    shown = ", ".join(f"{count} x {status or 'cut off'}" for status, count in sorted(statuses.items()))
    good_only = not odd and not silent and cut_off <= cuts
    verdict = "each 503 with Retry-After" if good_only else f"BROKEN: {odd}, {silent} without Retry-After"
    yield f"photos of {CLIENTS} clients", len(load), f"{shown}; {verdict}"
    p50, p95 = good[len(good) // 2], good[int(len(good) * 0.95)]
    yield "photos answered", len(good), f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, the slowest {good[-1]:.0f} ms"


def of_health(health: list[Reply]) -> Iterator[Row]:
    """Yield the outcome of the health checks."""
    live = sorted(reply.milliseconds for reply in health if reply.status == 200)
    within = sum(milliseconds < HEALTH_MS for milliseconds in live)
    verdict = "" if len(live) == len(health) else f"; BROKEN: {len(health) - len(live)} failed"
    share, p99 = 100 * within / len(health), live[int(len(live) * 0.99)]
    times = f"{share:.2f} % within {HEALTH_MS:.0f} ms, p99 {p99:.0f} ms, the slowest {live[-1]:.0f} ms"
    yield "health checks", len(health), times + verdict


def of_memory(held: list[Held]) -> Iterator[Row]:
    """Yield the memory used in the first and in the last minute."""
    first = statistics.median(megabytes for at, megabytes in held if at < held[0].at + 60)
    last = statistics.median(megabytes for at, megabytes in held if at > held[-1].at - 60)
    verdict = "" if last <= first * GROWTH else "BROKEN: "
    yield "looks at memory", len(held), f"{verdict}{first:.0f} MB in the first minute, {last:.0f} MB in the last"


def rows(
    installation: Installation,
    peace: float,
    load: list[Reply],
    health: list[Reply],
    counted: list[Reply],
    held: list[Held],
) -> Iterator[Row]:
    """Yield each action, its count and its outcome: first for the load alone, then for everything."""
    killed = len(installation.done.get("worker_killed", []))
    yield "**load alone**", 1, f"{peace - held[0].at:.0f} s"
    yield from of_photos([reply for reply in load if reply.at < peace], 0)
    yield from of_health([reply for reply in health if reply.at < peace])
    yield from of_memory([each for each in held if each.at < peace])
    yield "**with faults and hostile input**", 1, f"{held[-1].at - peace:.0f} s"
    yield from of_photos([reply for reply in load if reply.at >= peace], killed * THREADS)
    yield from of_health([reply for reply in health if reply.at >= peace])
    for name, outcomes in installation.done.items():
        broken = [outcome for outcome in outcomes if "BROKEN" in outcome]
        yield name.replace("_", " "), len(outcomes), (broken or [worst(outcomes)])[0]
    yield "**in all**", 1, f"{held[-1].at - held[0].at:.0f} s"
    wrong = miscounted(counted)
    yield "requests counted one by one", len(counted), f"{'BROKEN: ' if wrong else ''}{wrong} lost or doubled"
    records = installation.server.records
    fives = sum(record.get("status") == 500 for record in records)
    yield "lines of the log", len(records), f"{'BROKEN: ' if fives else ''}{fives} replies of 500"
    deaths = installation.server.log.read_text().count("was sent SIGKILL")
    yield "workers that died", deaths, "each killed by us" if deaths <= killed else f"BROKEN: {deaths - killed} others"
    yield from of_memory(held)


def worst(outcomes: list[str]) -> str:
    """The outcome with the longest time in it, of outcomes that differ in times only."""

    def seconds(outcome: str) -> list[float]:
        words = outcome.replace(",", "").split()
        return [float(word) for word, unit in pairwise(words) if unit == "s"]

    return max(outcomes, key=seconds)


def main() -> None:
    """Start the servers, run load and faults, and print the table."""
    seconds = float(sys.argv[1]) * 60
    with ExitStack() as closing:
        database = Postgres.made()
        closing.callback(database.remove)
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        front = closing.enter_context(fronting(folder))
        server = closing.enter_context(serving(folder))(DATABASE_URL=database.emptied())
        installation = Installation(server, front(server.port), database)
        users = [add(server, f"user{n}", 1000) for n in range(7)]
        counter = add(server, "counter", LIMIT / 60)
        add(server, "replaced", 1000)
        server.env["SOAK_TOKEN"] = add(server, "some", 1000)
        begin = time.time()
        peace, until = begin + min(300, seconds / 3), begin + seconds
        with ProcessPoolExecutor(3, get_context("spawn")) as pool:
            load = pool.submit(crowd, installation.port, users, until)
            health = pool.submit(repeated, server.port, "/health/live", 0.2, until)
            counted = pool.submit(repeated, installation.port, "/session", 0.05, until, None, counter)
            held = go_on(installation, peace, until)
            found = list(rows(installation, peace, load.result(), health.result(), counted.result(), held))
    print(tabulate(found, ["what was done", "how often", "what came of it"], tablefmt="github"))
    sys.exit(any("BROKEN" in outcome for _, _, outcome in found))


if __name__ == "__main__":
    main()
