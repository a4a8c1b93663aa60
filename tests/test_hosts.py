"""Two application hosts behind one nginx, simulated by network namespaces on an isolated bridge."""

import os
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from threading import Event

import pytest

from tests.helpers import OBJECTS, missing, wait_until
from tests.networks import ip
from tests.servers import Postgres, Redis, Reply, Server, add, call, fronting, serving

PORT = 8000
LIMIT = 60_000  # requests a minute for a user who sends requests in a loop
PAUSE = 0.1  # seconds between two of them: both hosts share this machine's cores with the clients


@dataclass
class Host:
    """A network namespace with one link to the bridge: to the network, a separate machine."""

    name: str
    address: str

    @property
    def within(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Packets to and from it are lost."""
        ip("link", "set", self.name, "down")
        try:
            yield
        finally:
            ip("link", "set", self.name, "up")


@dataclass
class Network:
    """The bridge's own address, and the hosts on it."""

    address: str
    hosts: list[Host]


def new_bridge() -> int:
    """An unused number for a bridge."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("iproute2, or root's right to make networks,")
    for number in range(1, 255):
        command = ["ip", "link", "add", f"augu{number}", "type", "bridge"]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return number
    return missing("the right to make networks")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two hosts on a bridge."""
    with ExitStack() as closing:
        number = new_bridge()
        bridge, hosts = f"augu{number}", [Host(f"augu{number}h{n}", f"10.203.{number}.{n}") for n in (11, 12)]
        closing.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"10.203.{number}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host in hosts:
            ip("netns", "add", host.name)
            closing.callback(ip, "netns", "del", host.name)
            ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            ip("link", "set", host.name, "master", bridge, "up")
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.name, "link", "set", device, "up")
        yield Network(f"10.203.{number}.1", hosts)


@pytest.fixture(scope="module")
def database(network: Network) -> Iterator[Postgres]:
    """A PostgreSQL that the hosts reach."""
    server = Postgres.made(network.address)
    yield server
    server.remove()


@dataclass
class Installation:
    """Both hosts' servers, and the port that nginx listens on in front of them."""

    hosts: list[Host]
    servers: list[Server]
    start: Callable[[Host], Server]
    port: int

    def restart(self, n: int) -> None:
        """Stop a host's server and start it again."""
        self.servers[n].stop()
        self.servers[n] = self.start(self.hosts[n])


@pytest.fixture(scope="module")
def installation(
    network: Network, database: Postgres, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Installation]:
    """Both hosts and nginx; the parameter is where requests are counted.

    nginx waits 20 s for a reply instead of 60. A host takes connections while it starts, which needs several seconds.
    """
    folder = tmp_path_factory.mktemp("hosts")
    shared = {
        "AUGU_SECRET_KEY": "the secret of both hosts, 32 characters",
        "DATABASE_URL": database.emptied(),
        "WEB_CONCURRENCY": "2",
    }
    with ExitStack() as closing:
        if request.param == "redis":
            redis = Redis(folder, network.address)
            redis.start()
            closing.callback(redis.stop)
            shared["AUGU_RATELIMIT_STORAGE"] = redis.url
        serve = closing.enter_context(serving(folder))

        def start(host: Host) -> Server:
            return serve(host.address, PORT, host.within, AUGU_DATA_DIR=str(folder / host.name), **shared)

        servers = [start(host) for host in network.hosts]
        front = closing.enter_context(fronting(folder))
        port = front(*(f"{host.address}:{PORT}" for host in network.hosts), read_timeout="20s")
        yield Installation(network.hosts, servers, start, port)


on_each = pytest.mark.parametrize("installation", ["postgresql", "redis"], indirect=True)
on_redis = pytest.mark.parametrize("installation", ["redis"], indirect=True)


def served(server: Server) -> int:
    """How many requests a host has logged with a user's name."""
    return sum(record.get("user") is not None for record in server.records)


def served_since(installation: Installation, before: list[int]) -> list[int]:
    return [served(server) - was for server, was in zip(installation.servers, before, strict=True)]


def users(installation: Installation) -> list[str]:
    """The tokens of eight new users."""
    return [add(installation.servers[0], uuid.uuid4().hex, LIMIT / 60) for _ in range(8)]


@contextmanager
def asking(port: int, tokens: list[str], body: bytes) -> Iterator[list[list[Reply]]]:
    """One client for each user that sends requests in a loop; yields each client's replies, oldest first."""
    done, replies = Event(), [list[Reply]() for _ in tokens]

    def ask(token: str, got: list[Reply]) -> None:
        for path, sent in islice(cycle([("/session", None), (OBJECTS, body)]), 20_000):
            if done.wait(PAUSE):
                return
            got.append(call(port, path, sent, token))

    with ThreadPoolExecutor(len(tokens)) as pool:
        clients = [pool.submit(ask, token, got) for token, got in zip(tokens, replies, strict=True)]
        try:
            yield replies
        finally:
            done.set()
    for client in clients:
        client.result()


def counted_exactly(replies: list[Reply]) -> bool:
    """Whether a user's count is the number of replies that show it, plus at most the number of the other replies.

    `replies` are all replies to a user who sends one request at a time. A request that nginx answers with 503 may have
    been counted. A host that loses Redis in the middle of a request answers without X-Ratelimit-Remaining.
    """
    told, untold, last = 0, 0, LIMIT
    for reply in replies:
        if reply.headers["X-Ratelimit-Remaining"] is None:
            untold += 1
            continue
        left = int(reply.headers["X-Ratelimit-Remaining"])
        told = told + 1 if left < last else int(left < LIMIT)  # else a new window has begun
        last = left
        if not told <= LIMIT - left <= told + untold:
            return False
    return True


def each_has(number: int, replies: list[list[Reply]], since: list[int]) -> bool:
    """Whether each client got `number` replies of 200 after its first `since` replies."""
    return all(
        sum(reply.status == 200 for reply in got[begin:]) >= number for got, begin in zip(replies, since, strict=True)
    )


@on_each
def test_the_quota_is_exact_across_hosts(installation: Installation) -> None:
    """Of 88 requests that clients send to both hosts as one user, exactly 48 pass; each host answers some."""
    token, before = add(installation.servers[0]), [served(server) for server in installation.servers]
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda _: call(installation.port, "/session", token=token), range(88)))
    assert Counter(reply.status for reply in replies) == {200: 48, 429: 40}
    shares = served_since(installation, before)
    assert sum(shares) == 88
    assert min(shares) > 0


@on_each
def test_a_host_that_is_cut_off(installation: Installation, photo: str) -> None:
    """Requests to a host that is cut off get 503, later ones are served by the other host, and counts stay exact.

    When its link is restored, the host serves again.
    """
    cut, server = installation.hosts[0], installation.servers[0]
    tokens, before = users(installation), [served(each) for each in installation.servers]
    with asking(installation.port, tokens, photo.encode()) as replies:
        wait_until(lambda: min(served_since(installation, before)) >= 40)
        since = [len(got) for got in replies]
        with cut.cut_off():
            wait_until(lambda: each_has(4, replies, since))
            seen = served(server)
        wait_until(lambda: served(server) >= seen + 40)
    print(Counter(reply.status for got in replies for reply in got))  # noqa: T201 - pytest -s shows it
    for reply in (reply for got in replies for reply in got if reply.status != 200):
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json["message"] == "The service cannot answer right now. Please try again later."
    assert [counted_exactly(got) for got in replies] == [True] * 8


@on_redis
def test_a_rolling_restart(installation: Installation, photo: str) -> None:
    """If the hosts are restarted one after the other, every request gets 200, and no count is lost or doubled."""
    tokens = users(installation)
    with asking(installation.port, tokens, photo.encode()) as replies:
        for n in (0, 1):
            before = [served(server) for server in installation.servers]
            installation.restart(n)
            wait_until(lambda: min(served_since(installation, before)) >= 40)  # noqa: B023 - called at once
    print(Counter(reply.status for got in replies for reply in got))  # noqa: T201 - pytest -s shows it
    assert [(reply.status, reply.body[:200]) for got in replies for reply in got if reply.status != 200] == []
    assert [counted_exactly(got) for got in replies] == [True] * 8


@on_redis
def test_tokens_and_bans_change_on_both_hosts(installation: Installation) -> None:
    """A token replaced or a user banned on one host is refused by the other from the next request on."""
    first, second = installation.servers

    def statuses(token: str) -> list[int]:
        return [call(PORT, "/session", token=token, address=each.address).status for each in (first, second)]

    old = add(first, "bob")
    assert statuses(old) == [200, 200]
    new = first.run("tokens", "regenerate", "bob").strip()
    assert (statuses(old), statuses(new)) == ([401, 401], [200, 200])
    second.run("users", "ban", "bob")
    assert statuses(new) == [403, 403]
    first.run("users", "unban", "bob")
    assert statuses(new) == [200, 200]
