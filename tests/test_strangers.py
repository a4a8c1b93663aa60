"""Other HTTP clients get every refusal, although it comes before their request has been read."""

from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import OBJECTS, missing
from tests.servers import Serve, add
from tests.strangers.running import PROGRAMS, SIZES, Refusal, Replies, body_of, replies
from tests.strangers.task import CONNECTIONS

TIMES = 20


@pytest.mark.parametrize("client", ["requests", "httpx", "aiohttp", "curl", "fetch"])
def test_every_refusal_arrives(client: str, serve: Serve, tmp_path: Path) -> None:
    """A client that keeps its connections alive gets each 401 and 406, whether its body is small or large."""
    if lacks := PROGRAMS[client].lacks:
        missing(lacks)
    server = serve(WEB_CONCURRENCY="1")
    users = tuple(add(server, f"user{number}", 1000) for number in range(CONNECTIONS))  # one alone might get 503
    refusals = [Refusal(401, ("x",)), Refusal(406, users, accept="text/html")]
    for refusal in refusals:
        for size in ("120 KB", "1 MB"):
            outcome = replies(client, server.url + OBJECTS, refusal, body_of(tmp_path, SIZES[size]), TIMES)
            assert outcome == Replies(Counter({refusal.status: TIMES}), Counter())
