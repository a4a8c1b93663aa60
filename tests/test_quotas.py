"""Quotas: requests are counted exactly, in the database or in Redis, and 50 refusals ban a user."""

import json
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
import redis as redis_client
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from limits.errors import StorageError
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.parsers import STORAGE_SCHEMES
from augu_api.store import accounts, database, migrate
from augu_api.store.models import Count, User
from augu_api.store.quotas import DatabaseStorage, QuotaExceeded, Quotas
from augu_api.web.service import KEY
from tests.helpers import OBJECTS, AtOnce, FakeDetector, add_user_to, answers, free_port, full, missing, wait_until


@pytest.fixture
def storage(engine: Engine) -> DatabaseStorage:
    return DatabaseStorage(engine)


# --- the storage in the database


def test_window(storage: DatabaseStorage) -> None:
    """Counts add up within a key's window, whose end is fixed by the first count."""
    before = time.time()
    assert [storage.incr("a", 60), storage.incr("a", 1000), storage.incr("a", 60, amount=5)] == [1, 2, 7]
    assert before + 60 <= storage.get_expiry("a") <= time.time() + 60
    assert storage.incr("b", 60) == 1
    assert (storage.get("a"), storage.get("b"), storage.get("c")) == (7, 1, 0)


def test_no_window(storage: DatabaseStorage) -> None:
    """A key without a window ends now."""
    before = time.time()
    assert before <= storage.get_expiry("a") <= time.time()


def test_expiry(storage: DatabaseStorage) -> None:
    """When a window has ended, its count is 0, and the next count starts a new window in the same row."""
    storage.incr("a", 1, amount=9)
    wait_until(lambda: storage.get("a") == 0, 5)
    before = time.time()
    assert before <= storage.get_expiry("a") <= time.time()
    assert storage.incr("a", 60) == 1
    assert storage.get_expiry("a") >= before + 60
    with Session(storage.engine) as session:
        assert len(session.scalars(select(Count)).all()) == 1


@dataclass
class Clock:
    """A clock that can be set."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("back", [1, 59, 60, 61, 3600, 10**9])
def test_a_clock_set_back(engine: Engine, back: int) -> None:
    """If the clock is set back, the window keeps its count and ends at most 60 seconds later."""
    clock = Clock()
    storage = DatabaseStorage(engine, clock)
    storage.incr("a", 60, amount=5)
    clock.now -= back
    assert (storage.get("a"), storage.incr("a", 60)) == (5, 6)
    ends = storage.get_expiry("a")
    assert clock.now < ends <= clock.now + 60
    clock.now += 30
    assert storage.incr("a", 60) == 7
    assert storage.get_expiry("a") == ends
    clock.now = ends
    assert (storage.get("a"), storage.incr("a", 60)) == (0, 1)


@pytest.mark.parametrize("forward", [60, 3600, 10**9])
def test_a_clock_set_forward(engine: Engine, forward: int) -> None:
    """If the clock is set forward, the window has ended, and the next one ends by the new time."""
    clock = Clock()
    storage = DatabaseStorage(engine, clock)
    storage.incr("a", 60, amount=5)
    clock.now += forward
    assert (storage.get("a"), storage.incr("a", 60)) == (0, 1)
    assert storage.get_expiry("a") == clock.now + 60


def test_clear_and_reset(storage: DatabaseStorage) -> None:
    """One count or all counts can be deleted."""
    for key in "abc":
        storage.incr(key, 60)
    storage.clear("a")
    assert [storage.get(key) for key in "abc"] == [0, 1, 1]
    assert storage.reset() == 2
    assert [storage.get(key) for key in "abc"] == [0, 0, 0]
    assert storage.check()


def test_threads(storage: DatabaseStorage) -> None:
    """No two of 8 threads that count at once get the same count."""
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: storage.incr("a", 60), range(200))) == list(range(1, 201))


def count_in(url: str, times: int) -> list[int]:
    storage = DatabaseStorage(database.connect(url))
    return [storage.incr("a", 60) for _ in range(times)]


def test_processes(engine: Engine, database_url: str, at_once: AtOnce) -> None:
    """No two of 8 processes that count at once get the same count."""
    counted = at_once(count_in, database_url, 25)
    assert sorted(chain(*counted)) == list(range(1, 201))


CALLS: dict[str, Callable[[DatabaseStorage], object]] = {
    "incr": lambda storage: storage.incr("a", 60),
    "count": lambda storage: storage.count("a", 60),
    "window": lambda storage: storage.window("a"),
    "get": lambda storage: storage.get("a"),
    "get_expiry": lambda storage: storage.get_expiry("a"),
    "reset": lambda storage: storage.reset(),
    "clear": lambda storage: storage.clear("a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_table(engine: Engine, storage: DatabaseStorage, call: Callable[[DatabaseStorage], object]) -> None:
    """Every method raises StorageError if the table is missing, and never returns a number."""
    migrate.downgrade(engine, "base")
    with pytest.raises(StorageError):
        call(storage)


def test_a_bug_in_a_statement_is_500_with_a_traceback(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A count that returns no row is not mistaken for a failing database."""
    service = app.extensions[KEY]
    headers = {"Authorization": add_user_to(service)}
    with service.engine.begin() as connection:
        connection.execute(text("CREATE TRIGGER skip BEFORE INSERT ON counts BEGIN SELECT RAISE(IGNORE); END"))
    assert app.test_client().get("/session", headers=headers).status_code == 500
    assert "sqlalchemy.exc.NoResultFound" in caplog.text


# --- quotas, in each storage


@dataclass
class Place:
    """Where an application stores its users and counts."""

    environ: dict[str, str]

    def app(self, detector: FakeDetector | None = None) -> Flask:
        return create_app(Settings.from_env(self.environ), detector)


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place where requests can be counted."""
    environ = {"AUGU_DATA_DIR": str(tmp_path), "AUGU_BAN_MINUTES": "3"}
    if request.param == "postgresql":
        environ["DATABASE_URL"] = request.getfixturevalue("postgres")
    elif request.param == "redis":
        environ["AUGU_RATELIMIT_STORAGE"] = request.getfixturevalue("redis")
    return Place(environ)


@pytest.fixture
def counted(place: Place, detector: FakeDetector) -> Iterator[Flask]:
    """An application that counts there."""
    app = place.app(detector)
    yield app
    app.extensions[KEY].engine.dispose()


@given(st.integers(0, 60_000_000))
def test_cap_of_a_whole_number(requests: int) -> None:
    """A coefficient of n / 60 gives a cap of exactly n, despite floating-point rounding."""
    assert User(coefficient=requests / 60).cap == requests


@given(st.integers(0, 100_000_000))
def test_cap_of_a_decimal(hundredths: int) -> None:
    """The cap is `coefficient * 60` rounded down, computed from the decimal coefficient."""
    assert User(coefficient=hundredths / 100).cap == hundredths * 60 // 100


def outcomes(quotas: Quotas, user: User, times: int) -> list[bool]:
    """Whether each of `times` requests passed."""
    passed = []
    for _ in range(times):
        try:
            quotas.count(user)
            passed.append(True)
        except QuotaExceeded:
            passed.append(False)
    return passed


@pytest.mark.parametrize("cap", [0, 1, 5])
def test_cap(counted: Flask, cap: int) -> None:
    """Exactly `cap` requests pass in a window of 60 seconds, and `left` shows the remaining ones."""
    quotas, user = counted.extensions[KEY].quotas, User(id=1, coefficient=cap / 60)
    left = quotas.left(user)
    assert (left.limit, left.remaining, left.reset) == (cap, cap, 0)
    assert outcomes(quotas, user, cap) == [True] * cap
    assert outcomes(quotas, user, 3) == [False] * 3
    left = quotas.left(user)
    assert (left.limit, left.remaining) == (cap, 0)
    assert 50 < left.reset <= 60
    assert outcomes(quotas, User(id=2, coefficient=1), 1) == [True]


def test_count_returns_the_quota(counted: Flask) -> None:
    """Counting a request returns the quota after it, and QuotaExceeded has it too."""
    quotas, user = counted.extensions[KEY].quotas, User(id=1, coefficient=2 / 60)
    told = [quotas.count(user), quotas.count(user)]
    with pytest.raises(QuotaExceeded) as refusal:
        quotas.count(user)
    told.append(refusal.value.quota)
    assert [(quota.limit, quota.remaining) for quota in told] == [(2, 1), (2, 0), (2, 0)]
    for quota in told:
        assert quota.ends == pytest.approx(quotas.left(user).ends, abs=1.5)  # Redis has whole seconds


@pytest.fixture(scope="module")
def redis_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Redis that is reached by TCP, by TLS and by a socket file; the URL for each scheme."""
    if shutil.which("redis-server") is None:
        missing("redis-server")
    trustme = pytest.importorskip("trustme")
    folder, plain, tls = tmp_path_factory.mktemp("redis"), free_port(), free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    options = f"""
        --port {plain} --tls-port {tls} --tls-auth-clients no --unixsocket redis.sock --save ""
        --tls-cert-file server.pem --tls-key-file server.pem --tls-ca-cert-file ca.pem
    """
    process = subprocess.Popen(["redis-server", *shlex.split(options)], cwd=folder, stdout=subprocess.DEVNULL)
    wait_until(lambda: answers(plain) and answers(tls) and (folder / "redis.sock").exists())
    yield {
        "redis": f"redis://127.0.0.1:{plain}",
        "rediss": f"rediss://127.0.0.1:{tls}?ssl_ca_certs={folder / 'ca.pem'}",
        "redis+unix": f"redis+unix://{folder / 'redis.sock'}",
    }
    process.terminate()
    process.wait()


@pytest.mark.parametrize("scheme", STORAGE_SCHEMES)
def test_every_scheme_counts(redis_urls: dict[str, str], settings: Settings, scheme: str) -> None:
    """Each scheme that the setting accepts counts requests, with the packages that are installed."""
    quotas = Quotas(database.connect(settings.database_url), redis_urls[scheme], 1)
    assert quotas.check()
    user = User(id=STORAGE_SCHEMES.index(scheme), coefficient=2 / 60)
    assert outcomes(quotas, user, 3) == [True, True, False]
    assert quotas.left(user).remaining == 0


def let_through(place: Place) -> int:
    quotas = place.app().extensions[KEY].quotas
    return sum(outcomes(quotas, User(id=1, coefficient=0.8), 11))


def test_exact_in_processes(place: Place, at_once: AtOnce) -> None:
    """Of 88 requests of a user to 8 processes at once, exactly 48 pass."""
    assert sum(at_once(let_through, place)) == 48


def test_ban(counted: Flask) -> None:
    """The 50th refusal bans for the configured minutes, and resets the count of refusals."""
    service = counted.extensions[KEY]
    with Session(service.engine, expire_on_commit=False) as session, session.begin():
        user = accounts.create(session, "alice", coefficient=0)

    def until() -> float | None:
        with Session(service.engine) as session:
            return accounts.find(session, "alice").banned_until

    for _ in range(2):
        outcomes(service.quotas, user, 49)
        assert until() is None
        before = time.time()
        outcomes(service.quotas, user, 1)
        banned_until = until()
        assert banned_until is not None
        assert before + 180 <= banned_until <= time.time() + 180
        with Session(service.engine) as session, session.begin():
            accounts.unban(accounts.find(session, "alice"))


def test_removed_meanwhile(counted: Flask) -> None:
    """A user who was removed meanwhile is refused like any other, without an error."""
    assert outcomes(counted.extensions[KEY].quotas, User(id=404, coefficient=0), 51) == [False] * 51


def test_replies(counted: Flask) -> None:
    """Within the cap the reply is 200, then 429 fifty times, then 403 with the ban's seconds; once unbanned, 429."""
    service, client = counted.extensions[KEY], counted.test_client()
    headers = {"Authorization": add_user_to(service, coefficient=2 / 60)}
    replies = [client.get("/session", headers=headers) for _ in range(54)]
    assert [reply.status_code for reply in replies] == [200] * 2 + [429] * 50 + [403] * 2
    assert [reply.headers["X-Ratelimit-Remaining"] for reply in replies[:3]] == ["1", "0", "0"]
    assert {reply.headers["X-Ratelimit-Limit"] for reply in replies} == {"2"}
    for reply, longest in ((replies[2], 60), (replies[51], 60), (replies[52], 180)):
        assert longest - 30 < int(reply.headers["Retry-After"]) <= longest
        assert reply.headers["X-Retry-After"] == reply.headers["Retry-After"]
        assert f" {reply.headers['Retry-After']} seconds." in json.loads(reply.data)["message"]
    with Session(service.engine) as session, session.begin():
        accounts.unban(accounts.find(session, "alice"))
    assert client.get("/session", headers=headers).status_code == 429


def test_the_counts_are_unavailable(counted: Flask, place: Place, detector: FakeDetector, photo: str) -> None:
    """If requests cannot be counted, the reply is 503 in the envelope, and the detector gets no photo."""
    service, client = counted.extensions[KEY], counted.test_client()
    headers = {"Authorization": add_user_to(service)}
    assert client.post(OBJECTS, data=photo, headers=headers).status_code == 200
    assert len(detector.seen) == 1
    if url := place.environ.get("AUGU_RATELIMIT_STORAGE"):
        with redis_client.from_url(url) as connection:
            connection.shutdown(nosave=True)
        assert client.get("/health/ready").status_code == 503
    else:
        with service.engine.begin() as connection:
            connection.execute(text("DROP TABLE counts"))
    for reply in (client.post(OBJECTS, data=photo, headers=headers), client.get("/session", headers=headers)):
        assert reply.status_code == 503
        body = json.loads(reply.data)
        assert list(body) == ["statusCode", "error", "message"]
        assert body["error"] == "Service Unavailable"
        assert reply.headers["Retry-After"] == "1"
    assert len(detector.seen) == 1


def test_the_users_are_unavailable(counted: Flask, detector: FakeDetector, photo: str) -> None:
    """If users cannot be looked up, the reply is 503, and the detector gets no photo."""
    service, client = counted.extensions[KEY], counted.test_client()
    headers = {"Authorization": add_user_to(service)}
    with service.engine.begin() as connection:
        connection.execute(text("DROP TABLE users"))
    assert client.post(OBJECTS, data=photo, headers=headers).status_code == 503
    assert detector.seen == []


def test_a_changed_cap_starts_a_new_window(counted: Flask) -> None:
    """A user whose cap was changed gets the whole new cap at once: earlier requests no longer count."""
    quotas = counted.extensions[KEY].quotas
    before, after = User(id=1, coefficient=2 / 60), User(id=1, coefficient=3 / 60)
    assert outcomes(quotas, before, 3) == [True, True, False]
    assert quotas.left(after).remaining == 3
    assert outcomes(quotas, after, 4) == [True, True, True, False]
    assert quotas.left(before).remaining == 0


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The first word of each SQL statement that is sent within the context."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


USER, COUNTED, LEFT = "SELECT", "INSERT", "SELECT"


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_statements(counted: Flask) -> None:
    """Each request looks up its user once and counts or reads the quota once; a 429 also counts the refusal."""
    service, client = counted.extensions[KEY], counted.test_client()
    headers = {"Authorization": add_user_to(service, coefficient=1 / 60)}
    sent = {}
    for status in (200, 429):
        with statements(service.engine) as sent[status]:
            assert client.get("/session", headers=headers).status_code == status
    headers = {"Authorization": add_user_to(service, "bob")}
    with full(service), statements(service.engine) as sent[503]:
        assert client.post(OBJECTS, data="x", headers=headers).status_code == 503
    with Session(service.engine) as session, session.begin():
        accounts.ban(accounts.find(session, "bob"))
    with statements(service.engine) as sent[403]:
        assert client.get("/session", headers=headers).status_code == 403
    with statements(service.engine) as sent[401]:
        assert client.get("/session").status_code == 401
    assert sent == {
        200: [USER, COUNTED],
        429: [USER, COUNTED, COUNTED],
        503: [USER, LEFT],
        403: [USER, LEFT],
        401: [],
    }


def test_reset_is_rounded_up(storage: DatabaseStorage, engine: Engine) -> None:
    """X-Ratelimit-Reset is rounded up, so that a caller who waits for it finds a new window."""
    quotas, user = Quotas(engine, "", 10), User(id=1, coefficient=1)
    quotas.count(user)
    with Session(engine) as session:
        expires_at = session.scalars(select(Count)).one().expires_at
    before = time.time()
    reset = quotas.left(user).reset
    assert math.ceil(expires_at - time.time()) <= reset <= math.ceil(expires_at - before)
