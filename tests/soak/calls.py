"""Timed calls, and what a table says about them."""

import http.client
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.helpers import LOOPBACK

HEALTH_MS = 100.0
Row = tuple[str, int, str]
"""An action, how often it was done, and what came of it."""


class Reply(NamedTuple):
    """When it came, its status (0: no reply), the milliseconds, whether it has Retry-After, and the requests left."""

    at: float
    status: int
    milliseconds: float
    retry: bool
    left: int | None = None


def timed(
    port: int, path: str, body: bytes | None = None, token: str = "", source: str = "", timeout: float = 120
) -> Reply:
    """Send a request on a new connection, from the local address `source` if one is given."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout, source_address=(source, 0))
    try:
        connection.request("POST" if body else "GET", path, body, {"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return Reply(time.time(), 0, (time.perf_counter() - start) * 1000, False)
    finally:
        connection.close()
    milliseconds = (time.perf_counter() - start) * 1000
    left = response.headers["X-Ratelimit-Remaining"]
    retry = "Retry-After" in response.headers
    return Reply(time.time(), response.status, milliseconds, retry, None if left is None else int(left))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the ordered values is."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def progress(line: str) -> None:
    """Show a line at once, apart from the table."""
    sys.stderr.write(f"{line}\n")
