"""Who used the service, and how: its request log, read in one pass and bounded memory.

Nothing in a log is trusted: a line that is longer than any of ours or not exactly what `ops` writes is skipped.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple

from augu_api.tokens import MAX_ID
from augu_api.web.monitoring import OTHER, product
from augu_api.web.request_log import logger

MAX_LINE = 16_384  # bytes: an agent of 200 characters, escaped, and the rest
MAX_USERS = 10_000
MAX_AGENTS = 50  # for each user
STEP = 1.05  # each bucket of milliseconds ends 5 % above the one before
LONGEST = 3_600_000  # milliseconds
PREFIX = re.compile(rb'(?:[^{}"=]{1,200}[:|] )?(?=\{)')  # what syslog, Heroku or a container's log put before a line
ID = re.compile(r"[1-9][0-9]{0,18}")
NOBODY = "nobody"


class Answer(NamedTuple):
    """One line of the request log; `user` is an id, None for a caller without a valid token."""

    time: datetime
    user: int | None
    agent: str
    status: int
    milliseconds: float


@dataclass
class Use:
    """What is kept of one user's requests: counts of bounded number, and the last moment.

    A percentile is right to 2.5 %: the buckets of `took`, of fulfilled requests alone, are 5 % wide.
    """

    requests: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    took: Counter[int] = field(default_factory=Counter)
    last: datetime = datetime.min.replace(tzinfo=UTC)

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.requests += 1
        self.last = max(self.last, answer.time)
        self.agents[_bounded(product(answer.agent), self.agents, MAX_AGENTS, OTHER)] += 1
        if answer.status >= 400:
            self.refused[answer.status] += 1
        elif answer.status < 300:
            self.took[_bucket(answer.milliseconds)] += 1

    def percentile(self, percent: float) -> float | None:
        """Within how many milliseconds so many percent of the fulfilled requests were answered."""
        wanted = math.ceil(self.took.total() * percent / 100)
        for bucket in sorted(self.took):
            wanted -= self.took[bucket]
            if wanted <= 0:
                return round(float(STEP ** (bucket - 0.5)), 1)
        return None

    def row(self, name: str) -> dict[str, Any]:
        """What is shown of it, for JSON."""
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
    """The use that each user made, of at most 10,000; `read` and `skipped` count lines."""

    def __init__(self, since: datetime | None = None) -> None:
        self.since = since
        self.users: dict[int | str | None, Use] = defaultdict(Use)
        self.read = self.skipped = 0

    def add(self, lines: Iterable[bytes | None]) -> None:
        """Count the lines of a log; None stands for one that was too long."""
        for line in lines:
            self.read += 1
            answer = parse(line) if line else None
            if answer is None:
                self.skipped += 1
            elif self.since is None or answer.time >= self.since:
                self.users[_bounded(answer.user, self.users, MAX_USERS, OTHER)].add(answer)

    def rows(self, names: dict[int, str]) -> list[dict[str, Any]]:
        """A row for each user, most requests first, by name where `names` has the id."""
        most = sorted(self.users.items(), key=lambda item: -item[1].requests)
        return [use.row(_named(user, names)) for user, use in most]


def _named(user: int | str | None, names: dict[int, str]) -> str:
    if user is None:
        return NOBODY
    return names.get(user, str(user)) if isinstance(user, int) else user


def _bounded(key: Any, known: Any, most: int, other: str) -> Any:
    return key if key in known or len(known) < most else other


def _bucket(milliseconds: float) -> int:
    """The bucket's number; all below a millisecond share the first."""
    return max(0, math.ceil(math.log(min(max(milliseconds, 1), LONGEST), STEP)))


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a log, and None for each that is longer than any of ours, of which no more is kept."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def parse(line: bytes) -> Answer | None:
    """What a line of the request log says, or None if it is none."""
    try:
        start = PREFIX.match(line)
        said = json.loads(line[start.end() :]) if start else {}
        return _answer(said) if said.get("logger") == logger.name else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _answer(said: dict[str, Any]) -> Answer:
    """The fields that are counted. Raises ValueError, TypeError or KeyError if one is not as `ops` writes it."""
    user, agent, status, milliseconds = (said[name] for name in ("user", "agent", "status", "milliseconds"))
    time = datetime.fromisoformat(said["time"])
    right = (
        (user is None or (ID.fullmatch(user) and int(user) <= MAX_ID))
        and isinstance(agent, str)
        and type(status) is int
        and 100 <= status <= 599
        and type(milliseconds) in (int, float)
        and 0 <= milliseconds < math.inf
        and time.tzinfo
    )
    if not right:
        raise ValueError
    return Answer(time, user and int(user), agent, status, milliseconds)
