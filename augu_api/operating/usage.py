"""Statistics of the request log by user, made in one pass and with bounded memory.

A log may hold anything, so a line is skipped if it is too long or not exactly what the request log writes.
"""

import gzip
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedReader, RawIOBase
from typing import IO, Any, BinaryIO, NamedTuple, cast

from augu_api.tokens import MAX_ID
from augu_api.web.agents import OTHER, product
from augu_api.web.request_log import logger

MAX_LINE = 16_384  # bytes, enough for an escaped User-Agent of 200 characters and the other fields
MAX_USERS = 10_000
MAX_AGENTS = 50  # per user
BUCKET_GROWTH = 1.05  # the upper bound of a bucket of latencies, divided by that of the previous one
MAX_LATENCY = 3_600_000  # milliseconds
PREFIX = re.compile(rb'(?:[^{}"=]{1,200}[:|] )?(?=\{)')  # what syslog, Heroku or a container's log writes before a line
ID = re.compile(r"[1-9][0-9]{0,18}")
NOBODY = "nobody"
GZIP = b"\x1f\x8b"


class Entry(NamedTuple):
    """One line of the request log; `user` is an id, or None for a caller without a valid token."""

    time: datetime
    user: int | None
    agent: str
    status: int
    milliseconds: float


@dataclass
class UserStatistics:
    """One user's requests: a bounded number of counts, and the time of the last request.

    `latencies` counts the successful requests in buckets that are 5 % wide, so percentiles are accurate to 2.5 %.
    """

    requests: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    last: datetime = datetime.min.replace(tzinfo=UTC)

    def add(self, entry: Entry) -> None:
        """Count a request."""
        self.requests += 1
        self.last = max(self.last, entry.time)
        self.agents[_bounded(product(entry.agent), self.agents, MAX_AGENTS)] += 1
        if entry.status >= 400:
            self.refused[entry.status] += 1
        elif entry.status < 300:
            self.latencies[_bucket(entry.milliseconds)] += 1

    def percentile(self, percent: float) -> float | None:
        """The latency in milliseconds that this share of the successful requests did not exceed."""
        remaining = math.ceil(self.latencies.total() * percent / 100)
        for bucket in sorted(self.latencies):
            remaining -= self.latencies[bucket]
            if remaining <= 0:
                return round(float(BUCKET_GROWTH ** (bucket - 0.5)), 1)
        return None

    def row(self, name: str) -> dict[str, Any]:
        """The statistics as a row that JSON can hold."""
        return {
            "user": name,
            "requests": self.requests,
            "refused": {str(status): count for status, count in sorted(self.refused.items())},
            "p50 ms": self.percentile(50),
            "p95 ms": self.percentile(95),
            "agents": dict(self.agents.most_common(3)),
            "last seen": self.last.astimezone(UTC).isoformat(" ", "seconds"),
        }


class Usage:
    """The statistics of at most 10,000 users; `read` and `skipped` count lines."""

    def __init__(self, since: datetime | None = None) -> None:
        self.since = since
        self.users: dict[int | str | None, UserStatistics] = defaultdict(UserStatistics)
        self.read = self.skipped = 0

    def add(self, lines: Iterable[bytes | None]) -> None:
        """Count the lines of a log; None stands for a line that was too long."""
        for line in lines:
            self.read += 1
            entry = parse(line) if line else None
            if entry is None:
                self.skipped += 1
            elif self.since is None or entry.time >= self.since:
                self.users[_bounded(entry.user, self.users, MAX_USERS)].add(entry)

    def rows(self, names: dict[int, str]) -> list[dict[str, Any]]:
        """A row per user, most requests first, with the user's name if `names` has the id."""
        ranked = sorted(self.users.items(), key=lambda item: -item[1].requests)
        return [statistics.row(_named(user, names)) for user, statistics in ranked]

    def over_quota(self, names: dict[int, str]) -> list[tuple[str, int]]:
        """The users who got replies of 429, and how many, most first."""
        counts = Counter({_named(user, names): found.refused[429] for user, found in self.users.items()})
        return [(name, count) for name, count in counts.most_common() if count]


def _named(user: int | str | None, names: dict[int, str]) -> str:
    if user is None:
        return NOBODY
    return names.get(user, str(user)) if isinstance(user, int) else user


def _bounded(key: Any, known: Any, limit: int) -> Any:
    return key if key in known or len(known) < limit else OTHER


def _bucket(milliseconds: float) -> int:
    """The number of the bucket; all latencies below a millisecond share the first."""
    return max(0, math.ceil(math.log(min(max(milliseconds, 1), MAX_LATENCY), BUCKET_GROWTH)))


def plain(file: IO[bytes]) -> BinaryIO:
    """The file, decompressed if it starts as gzip's files do. While it is read, EOFError and others may be raised."""
    buffered = file if isinstance(file, BufferedReader) else BufferedReader(cast("RawIOBase", file))
    is_packed = buffered.peek(2)[:2] == GZIP
    return cast("BinaryIO", gzip.GzipFile(fileobj=buffered) if is_packed else buffered)


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a log, with None in place of each line that is too long; such a line is not kept in memory."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def parse(line: bytes) -> Entry | None:
    """The entry in a line of a log, or None if it is not a line of the request log."""
    try:
        start = PREFIX.match(line)
        record = json.loads(line[start.end() :]) if start else {}
        return _entry(record) if record.get("logger") == logger.name else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _entry(record: dict[str, Any]) -> Entry:
    """The fields that are counted. Raises ValueError, TypeError or KeyError if one is missing or invalid."""
    user, agent, status, milliseconds = (record[name] for name in ("user", "agent", "status", "milliseconds"))
    time = datetime.fromisoformat(record["time"])
    valid = (
        (user is None or (ID.fullmatch(user) and int(user) <= MAX_ID))
        and isinstance(agent, str)
        and type(status) is int
        and 100 <= status <= 599
        and type(milliseconds) in (int, float)
        and 0 <= milliseconds < math.inf
        and time.tzinfo
    )
    if not valid:
        raise ValueError
    return Entry(time, user and int(user), agent, status, milliseconds)
