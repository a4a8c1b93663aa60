"""A real gunicorn under hostile and broken requests: each gets its documented reply soon, and no memory leaks."""

import json
from pathlib import Path

import pytest

from tests.hostile import PHOTO, SECONDS, SECRET, Case, ask, ask_again, bodies, lines, photos, post, tokens
from tests.servers import Serve, Server, add

REQUESTS = 500
GROWTH = 50 * 2**20


def memory(pid: int) -> int:
    """The resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def least_memory(port: int, worker: int, cases: dict[str, Case]) -> int:
    """Send every request again; the least memory that the worker used in between.

    That is what it keeps: the most depends on when its allocator returns freed memory to the system.
    """
    held = []
    for case in cases.values():
        assert ask(port, case)[0] == case.status
        held.append(memory(worker))
    return min(held)


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(WEB_CONCURRENCY="1", AUGU_SECRET_KEY=SECRET)


def test_hostile_requests_are_answered_and_leave_nothing(server: Server) -> None:
    """Each is answered in the envelope within two seconds; 500 more leak no memory and forge no log line."""
    good = add(server, "mallory", 1_000_000)
    auth: dict[str, str | bytes] = {"Authorization": f"Bearer {good}"}
    photo = Case(post(PHOTO, auth | {"Content-Type": "image/png"}), 200)
    assert ask(server.port, photo)[0] == 200

    cases = tokens(good) | photos(auth) | bodies(auth) | lines(auth)
    assert len({case.request for case in cases.values()}) == len(cases) >= 60
    wrong = {}
    for name, case in cases.items():
        status, body, seconds = ask_again(server.port, case)
        if status != case.status or json.loads(body)["statusCode"] != status or seconds >= SECONDS:
            wrong[name] = status, body[:200], seconds
    assert not wrong

    (worker,) = server.workers
    rounds = [least_memory(server.port, worker, cases) for _ in range(-(-REQUESTS // len(cases)))]
    assert rounds[-1] - rounds[0] < GROWTH

    assert ask(server.port, photo)[0] == 200
    assert server.workers == [worker]
    log = server.log.read_text()
    assert not [record for record in server.records if "forged" in record or record["level"] == "ERROR"]
    assert not set(map(chr, range(32))) - {"\n"} & set(log)
