"""Other HTTP clients get every refusal, although it comes before their request has been read."""

from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import OBJECTS, missing
from tests.servers import Serve, Server, add_another
from tests.strangers.running import PROGRAMS, SIZES, Refusal, Replies, body_of, replies
from tests.strangers.task import CONNECTIONS

TIMES = 20


@pytest.fixture(scope="module")
def server(serve_for_all: Serve, tiny_model: dict[str, str]) -> Server:
    return serve_for_all(WEB_CONCURRENCY="1", **tiny_model)


@pytest.fixture(scope="module")
def users(server: Server) -> tuple[str, ...]:
    """The tokens of a user for each connection: one user alone might get 503."""
    return tuple(add_another(server) for _ in range(CONNECTIONS))


@pytest.mark.parametrize("client", ["requests", "httpx", "aiohttp", "curl", "fetch", "axios", "got"])
def test_every_refusal_arrives(client: str, server: Server, users: tuple[str, ...], tmp_path: Path) -> None:
    """A client that keeps its connections alive gets each 401 and 406, whether its body is small or large."""
    if lacks := PROGRAMS[client].lacks:
        missing(lacks)
    refusals = [Refusal(401, ("x",)), Refusal(406, users, accept="text/html")]
    for refusal in refusals:
        for size in ("120 KB", "1 MB"):
            outcome = replies(client, server.url + OBJECTS, refusal, body_of(tmp_path, SIZES[size]), TIMES)
            assert outcome == Replies(Counter({refusal.status: TIMES}), Counter())
