"""Real servers: gunicorn, PostgreSQL, Redis and nginx, and calls to them."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from augu_api.config import ROOT, Settings
from augu_api.store import database
from tests.helpers import (
    BIN,
    LOOPBACK,
    OBJECTS,
    answers,
    free_port,
    missing,
    needed,
    new_token,
    picture,
    png_of,
    wait_until,
)


def augu_api(*command: str, env: dict[str, str], within: tuple[str, ...] = ()) -> str:
    """Run the command line; its standard output."""
    whole = [*within, str(BIN / "augu-api"), *command]
    return subprocess.run(whole, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass
class Server:
    """A real gunicorn with its own data folder."""

    port: int
    process: subprocess.Popen[bytes]
    env: dict[str, str]
    log: Path
    address: str = LOOPBACK
    within: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The application's log lines."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def run(self, *command: str) -> str:
        """Run an augu-api command against the server's database; its standard output."""
        return augu_api(*command, env=self.env, within=self.within)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


Serve = Callable[..., Server]
Nginx = Callable[..., int]


@contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Start gunicorn as the Procfile does, its data in a folder: `start(AUGU_QUEUE="1", …)` takes its settings.

    It has one worker unless WEB_CONCURRENCY says otherwise: each loads the model, which takes a second.
    `within` is a prefix that runs a command in another environment, such as `ip netns exec`.
    """
    running = []

    def start(address: str = LOOPBACK, port: int = 0, within: tuple[str, ...] = (), **settings: str) -> Server:
        port = port or free_port()
        env = os.environ | {"AUGU_DATA_DIR": str(folder / "served"), "WEB_CONCURRENCY": "1"} | settings
        log = folder / f"gunicorn-{address}-{port}.log"
        with log.open("ab") as out:
            command = [*within, str(BIN / "gunicorn"), "--bind", f"{address}:{port}"]
            process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        server = Server(port, process, env, log, address, within)
        running.append(server)
        wait_until(server.is_ready)
        return server

    try:
        yield start
    finally:
        for server in running:
            if server.process.poll() is None:
                server.stop()


@dataclass
class Postgres:
    """A real PostgreSQL in a folder of its own, which can be stopped and started again."""

    programs: Path
    folder: Path
    port: int
    address: str

    @classmethod
    def made(cls, address: str = LOOPBACK) -> Self:
        """A new running server, open to the address's network."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not found:
            missing("PostgreSQL")
        server = cls(found[-1], Path(f"/tmp/augu-postgres-{uuid.uuid4().hex}"), free_port(), address)
        server.folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(server.folder, "postgres")
        server._run("initdb", "-U", "augu", "-A", "trust")
        with (server.folder / "data" / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all augu samenet trust\n")
        server.start()
        return server

    @property
    def url(self) -> str:
        """The URL of its maintenance database."""
        return f"postgresql://augu@{self.address}:{self.port}/postgres"

    def emptied(self) -> str:
        """The URL of an empty database."""
        with needed("psycopg").connect(self.url, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS augu WITH (FORCE)")
            connection.execute("CREATE DATABASE augu")
        return self.url.replace("/postgres", "/augu")

    def start(self) -> None:
        options = f"-c port={self.port} -c listen_addresses={self.address} -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-l", str(self.folder / "log"), "-o", f"{options} -c fsync=off", "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
        subprocess.run(
            [*as_user, self.programs / program, "-D", self.folder / "data", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )


class Redis:
    """A real Redis without persistence, open to the address's network, which can be stopped and started again."""

    def __init__(self, folder: Path, address: str = LOOPBACK) -> None:
        if shutil.which("redis-server") is None:
            missing("redis-server")
        self.folder, self.address, self.port = folder, address, free_port()
        self.url = f"redis://{address}:{self.port}"

    def start(self) -> None:
        command = ["redis-server", "--bind", self.address, "--port", str(self.port), "--protected-mode", "no"]
        self.process = subprocess.Popen([*command, "--save", "", "--dir", self.folder], stdout=subprocess.DEVNULL)
        wait_until(lambda: answers(self.port, self.address))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def fronting(folder: Path) -> Iterator[Nginx]:
    """Start a real nginx with deploy/nginx.conf in front of ports: `start(8000)` returns the port it listens on.

    An upstream is a local port, or "address:port". Nginx waits for `read_timeout` until a host answers, and takes
    callers' addresses from X-Forwarded-For if the request comes from `balancer`. It has `locations` beside its own. It
    logs to `folder`/nginx.log.
    """
    program = shutil.which("nginx")
    if program is None:
        missing("nginx")
    running = []
    in_memory = Path(f"/dev/shm/augu-nginx-{uuid.uuid4().hex}")

    def start(*upstreams: int | str, read_timeout: str = "60s", balancer: str = "", locations: str = "") -> int:
        port = free_port()
        given = (ROOT / "deploy" / "nginx.conf").read_text()
        lines = "\n".join(line for line in given.splitlines() if "server 127.0.0.1:8000" in line)
        addresses = [each if isinstance(each, str) else f"{LOOPBACK}:{each}" for each in upstreams]
        changes = {
            lines: "\n".join(lines.replace("127.0.0.1:8000", each) for each in addresses),
            "proxy_read_timeout 60s;": f"proxy_read_timeout {read_timeout};",
            "listen 80 ": f"listen {port} ",
            "/run/augu-nginx": str(in_memory),
            "location / {": f"{locations} location / {{",
        }
        if balancer:
            changes |= {"# set_real_ip_from 10.0.0.0/8": f"set_real_ip_from {balancer}", "# real_ip_h": "real_ip_h"}
        for old, new in changes.items():
            assert given.count(old) == 1
            given = given.replace(old, new)
        config = folder / "nginx.conf"
        config.write_text(given)
        command = [str(program), "-p", str(folder), "-c", str(config), "-g", f"daemon off; pid {folder}/nginx.pid;"]
        with (folder / "nginx.log").open("ab") as log:
            running.append(subprocess.Popen(command, stderr=log))
        wait_until(lambda: answers(port))
        return port

    try:
        yield start
    finally:
        for process in running:
            process.terminate()
            process.wait()
        shutil.rmtree(in_memory, ignore_errors=True)


@dataclass
class Reply:
    """A reply that has been read."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(
    port: int,
    path: str,
    body: bytes | None = None,
    token: str = "",
    source: str = "",
    address: str = LOOPBACK,
    **headers: str,
) -> Reply:
    """Make a request to a port of this machine or of `address`, from the local address `source` if one is given."""
    connection = http.client.HTTPConnection(address, port, timeout=120, source_address=(source, 0))
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def accepted(port: int, token: str, body: bytes) -> http.client.HTTPConnection:
    """A connection whose request a worker has begun to read: it has sent 100 Continue."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", OBJECTS)
    for name, value in (
        ("Authorization", f"Bearer {token}"),
        ("Content-Length", str(len(body))),
        ("Expect", "100-continue"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(100, socket.MSG_PEEK).startswith(b"HTTP/1.1 100 ")
    return connection


def add(server: Server, name: str = "alice", coefficient: float = 0.8) -> str:
    """A new user's token, without the seconds that the command line takes to start."""
    settings = Settings.from_env(server.env)
    engine = database.connect(settings.database_url)
    try:
        return new_token(engine, settings, name, coefficient=coefficient)
    finally:
        engine.dispose()


def add_another(server: Server, coefficient: float = 1000) -> str:
    """The token of a new user of a server that tests share."""
    return add(server, uuid.uuid4().hex, coefficient)


def wait_for_all(server: Server, folder: Path, workers: int) -> None:
    """Wait until each worker has loaded the model: it then shows the model's facts among the metrics."""
    wait_until(lambda: sum(b"augu_model_info" in path.read_bytes() for path in gauges(folder)) == workers)


def gauges(folder: Path) -> list[Path]:
    """The files of the running workers' gauges, of servers whose TMPDIR is the folder."""
    return list(folder.glob("augu-metrics-*/gauge_livemax_*.db"))


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    open_files = subprocess.run(["ls", "-l", f"/proc/{pid}/fd"], stdout=subprocess.PIPE, check=False).stdout
    return open_files.count(b"socket:")


def photo(name: str) -> bytes:
    """A photo of scikit-image's as a body."""
    return base64.b64encode(png_of(picture(name)))
