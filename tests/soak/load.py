"""Load, faults and hostile input against nginx, gunicorn with its defaults, and PostgreSQL.

For the first third of the time, or 5 minutes, there is only load.
"""

import os
import random
import signal
import socket
import statistics
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

from augu_api.config import CORES
from tests.helpers import OBJECTS, wait_until
from tests.hostile import ask, bodies, lines, photos, tokens
from tests.servers import Postgres, Server, add, fronting, photo, serving
from tests.soak.calls import HEALTH_MS, Reply, Row, progress, quantile, timed

CLIENTS = 64
USERS = 16  # a user holds at most a third of the slots, and these must fill them all
PHOTOS = ("astronaut", "chelsea", "coffee")
GROWTH = 1.05
GONE = 10  # seconds without a database
ALLOWED = {200, 429, 503}
LIMIT = 60_000  # requests a minute of the user who counts


def repeated(
    port: int, path: str, pause: float, until: float, body: bytes | None = None, token: str = "", source: str = ""
) -> list[Reply]:
    """Send requests in a loop; after a refusal wait a second, as Retry-After says."""
    replies = []
    while time.time() < until:
        replies.append(timed(port, path, body, token, source))
        time.sleep(1 if replies[-1].status in (0, 429, 503) and body else pause)
    return replies


def crowd(port: int, user_tokens: list[str], until: float) -> list[Reply]:
    """Send photos from many clients at once, each with an address of its own, because nginx limits each address."""
    images = [photo(name) for name in PHOTOS]

    def client(number: int) -> list[Reply]:
        image, token = images[number % len(images)], user_tokens[number % len(user_tokens)]
        return repeated(port, OBJECTS, 0, until, image, token, f"127.0.2.{number + 1}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [pool.submit(client, number) for number in range(CLIENTS)]
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
        return f"replaced after {time.time() - start:.1f} s"

    def workers_replaced(self) -> str:
        """Replace all workers by a reload."""
        before = set(self.server.workers)
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(self.server.workers) and len(self.server.workers) == len(before), 90)
        wait_until(self.server.is_ready)
        return "all new"

    def database_down(self) -> str:
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
        meanwhile = f"BROKEN: {passed}" if passed else "503 meanwhile"
        return f"{meanwhile}, recovered {time.time() - back:.1f} s after it returned"

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
        return "other clients were still answered" if status == 200 else f"BROKEN: {status}"

    def clients_disconnected(self) -> str:
        """A hundred clients with a valid token disconnect in the middle of a photo, half of them without nginx."""
        body = photo("chelsea")
        head = f"POST {OBJECTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._some_token()}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for n in range(100):
            with socket.create_connection(("127.0.0.1", (self.port, self.server.port)[n % 2]), timeout=60) as client:
                client.sendall(request[: random.randrange(len(request))])
        return "nothing left behind" if self._ready() == 200 else "BROKEN: not ready"

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
        return f"{len(cases)} replies as documented, slowest {slowest:.1f} s" if not wrong else f"BROKEN: {wrong}"

    def token_replaced(self) -> str:
        """Regenerate a token: the old one stops working, the new one works."""
        old = self.server.run("tokens", "regenerate", "replaced").strip()
        new = self.server.run("tokens", "regenerate", "replaced").strip()
        seen = [timed(self.port, "/session", token=token).status for token in (old, new)]
        return "only the new one is accepted" if seen == [401, 200] else f"BROKEN: {seen}"

    def user_banned(self) -> str:
        """Ban and unban a user: no request passes in between."""
        token = self.server.run("tokens", "regenerate", "replaced").strip()
        self.server.run("users", "ban", "replaced")
        banned = {timed(self.port, "/session", token=token).status for _ in range(20)}
        self.server.run("users", "unban", "replaced")
        seen = banned, timed(self.port, "/session", token=token).status
        return "403 at once, 200 after the ban" if seen == ({403}, 200) else f"BROKEN: {seen}"

    def _ready(self) -> int:
        return timed(self.server.port, "/health/ready").status

    def _some_token(self) -> str:
        return self.server.env["SOAK_TOKEN"]


FAULTS = [
    Installation.worker_killed,
    Installation.hostile_requests,
    Installation.clients_disconnected,
    Installation.token_replaced,
    Installation.workers_replaced,
    Installation.slow_clients,
    Installation.user_banned,
    Installation.database_down,
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
            progress(f"{fault.__name__}: {installation.done[fault.__name__][-1]}")
            at += 1
        for _ in range(5):
            held.append(Held(time.time(), memory(installation.server)))
            time.sleep(1)
    return held


# --- the outcome


def of_photos(load: list[Reply]) -> Iterator[Row]:
    """Yield the outcome of the photos."""
    statuses = Counter(reply.status for reply in load)
    good = sorted(reply.milliseconds for reply in load if reply.status == 200)
    odd = {status: count for status, count in statuses.items() if status not in ALLOWED}
    silent = sum(reply.status == 503 and not reply.retry for reply in load)
    shown = ", ".join(f"{count} x {status or 'no reply'}" for status, count in sorted(statuses.items()))
    broken = f"BROKEN: {odd}, {silent} without Retry-After"
    yield (
        f"photos from {CLIENTS} clients",
        len(load),
        f"{shown}; {broken if odd or silent else 'every 503 had Retry-After'}",
    )
    p50, p95 = quantile(good, 0.5), quantile(good, 0.95)
    yield "photos answered", len(good), f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, slowest {good[-1]:.0f} ms"


def of_health(health: list[Reply]) -> Iterator[Row]:
    """Yield the outcome of the health checks."""
    live = sorted(reply.milliseconds for reply in health if reply.status == 200)
    within = sum(milliseconds < HEALTH_MS for milliseconds in live)
    verdict = "" if len(live) == len(health) else f"; BROKEN: {len(health) - len(live)} failed"
    share, p99 = 100 * within / len(health), quantile(live, 0.99)
    times = f"{share:.2f} % within {HEALTH_MS:.0f} ms, p99 {p99:.0f} ms, slowest {live[-1]:.0f} ms"
    yield "health checks", len(health), times + verdict


def of_memory(held: list[Held]) -> Iterator[Row]:
    """Yield the memory used in the first and in the last minute."""
    first = statistics.median(megabytes for at, megabytes in held if at < held[0].at + 60)
    last = statistics.median(megabytes for at, megabytes in held if at > held[-1].at - 60)
    verdict = "" if last <= first * GROWTH else "BROKEN: "
    yield "memory samples", len(held), f"{verdict}{first:.0f} MB in the first minute, {last:.0f} MB in the last"


def rows(
    installation: Installation,
    peace: float,
    load: list[Reply],
    health: list[Reply],
    counted: list[Reply],
    held: list[Held],
) -> Iterator[Row]:
    """Yield each action, its count and its outcome: first for the load alone, then for everything."""
    yield "**load alone**", 1, f"{peace - held[0].at:.0f} s"
    yield from of_photos([reply for reply in load if reply.at < peace])
    yield from of_health([reply for reply in health if reply.at < peace])
    yield from of_memory([each for each in held if each.at < peace])
    yield "**with faults and hostile input**", 1, f"{held[-1].at - peace:.0f} s"
    yield from of_photos([reply for reply in load if reply.at >= peace])
    yield from of_health([reply for reply in health if reply.at >= peace])
    for name, outcomes in installation.done.items():
        broken = [outcome for outcome in outcomes if "BROKEN" in outcome]
        yield name.replace("_", " "), len(outcomes), (broken or [worst(outcomes)])[0]
    yield "**in total**", 1, f"{held[-1].at - held[0].at:.0f} s"
    wrong = miscounted(counted)
    result = f"BROKEN: {wrong} lost or counted twice" if wrong else "none lost or counted twice"
    yield "requests counted one by one", len(counted), result
    records = installation.server.records
    fives = sum(record.get("status") == 500 for record in records)
    yield "log lines", len(records), f"BROKEN: {fives} replies of 500" if fives else "no reply of 500"
    deaths = installation.server.log.read_text().count("was sent SIGKILL")
    killed = len(installation.done.get("worker_killed", []))
    result = "all killed by the test" if deaths <= killed else f"BROKEN: {deaths - killed} not killed by the test"
    yield "workers that died", deaths, result
    yield from of_memory(held)


def worst(outcomes: list[str]) -> str:
    """The outcome with the longest time in it, of outcomes that differ in times only."""

    def seconds(outcome: str) -> list[float]:
        words = outcome.replace(",", "").split()
        return [float(word) for word, unit in pairwise(words) if unit == "s"]

    return max(outcomes, key=seconds)


def run(seconds: float, _: str) -> list[Row]:
    """Start the servers, run load and faults, and return the rows of the table."""
    with ExitStack() as closing:
        database = Postgres.made()
        closing.callback(database.remove)
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        front = closing.enter_context(fronting(folder))
        server = closing.enter_context(serving(folder))(DATABASE_URL=database.emptied(), WEB_CONCURRENCY=str(CORES))
        installation = Installation(server, front(server.port), database)
        users = [add(server, f"user{n}", 1000) for n in range(USERS)]
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
            return list(rows(installation, peace, load.result(), health.result(), counted.result(), held))
