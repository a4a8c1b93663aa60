"""What the tests share: an application with a fake detector, and real servers.

A test whose server or data is missing is skipped, or fails under AUGU_TEST_ALL=1. AUGU_SHARED names a folder with
labelled photos (photos/dev/instances.json and photos/dev/images in COCO's format).
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any, Self

import numpy as np
import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from augu_api import tokens
from augu_api.app import create_app
from augu_api.config import ROOT, Settings
from augu_api.detection import Detection, Detector
from augu_api.detection.engines import load
from augu_api.flags import Flag
from augu_api.store import accounts, database
from augu_api.web.service import KEY, Service

BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"
BOTH = Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL
OBJECTS = "/images/classify/objects"


def missing(what: str) -> None:
    """Skip a test that cannot run here, or fail where everything must run."""
    if os.environ.get("AUGU_TEST_ALL") == "1":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until the condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def answers(port: int, address: str = LOOPBACK) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def png_of(image: Image.Image, **options: object) -> bytes:
    """The image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: threads that wait for each other take most of the time where another process runs."""
    import torch  # the processes that tests start read this file too, and are not to wait for it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the application with a fake detector


@dataclass
class FakeDetector:
    """Finds what it is told to, and remembers the photos that it saw, and whether it had all cores for them."""

    found: list[Detection] = field(
        default_factory=lambda: [
            Detection("person", (1.234, 2.345, 6.789, 7.891), 0.89334),
            Detection("cat", (0.0, 0.0, 8.0, 8.0), 0.5),
            Detection("dog", (0.0, 0.0, 8.0, 8.0), 0.123),
        ]
    )
    names: list[str] = field(default_factory=lambda: ["person", "cat", "dog"])
    facts: dict[str, str] = field(default_factory=lambda: {"model": "fake", "engine": "none", "sha256": "0"})
    seen: list[NDArray[np.uint8]] = field(default_factory=list)
    all_cores: list[bool] = field(default_factory=list)

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """Find the same in every image."""
        self.seen.append(photo)
        self.all_cores.append(all_cores)
        return self.found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The default settings, with a data folder of the test's own."""
    return Settings.from_env({"AUGU_DATA_DIR": str(tmp_path / "data")})


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Compose applications, whose connections are closed in the end: `make_app(settings, detector)`."""
    with ExitStack() as closing:

        def make(settings: Settings, detector: Detector | None = None) -> Flask:
            app = create_app(settings, detector)
            closing.callback(app.extensions[KEY].engine.dispose)
            return app

        yield make


@pytest.fixture
def app(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> Flask:
    """The application on an empty SQLite database."""
    return make_app(settings, detector)


@pytest.fixture
def service(app: Flask) -> Service:
    """The application's collaborators."""
    found = app.extensions[KEY]
    assert isinstance(found, Service)
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


AddUser = Callable[..., str]


def add_user_to(service: Service, name: str = "alice", flags: Flag = BOTH, **options: object) -> str:
    """Add a user and return the Authorization header's value."""
    return f"Bearer {new_token(service.engine, service.settings, name, flags=flags, **options)}"


def new_token(engine: Engine, settings: Settings, name: str, flags: Flag = BOTH, **options: object) -> str:
    """A new user's token."""
    with Session(engine) as session, session.begin():
        token = accounts.current_token(accounts.create(session, name, flags=flags, **options))
    return tokens.issue(settings.secret_key, token)


@pytest.fixture
def add_user(service: Service) -> AddUser:
    """Add a user to the application: `add_user(name, flags, coefficient=…, id=…)` returns the Authorization value."""
    return lambda *args, **options: add_user_to(service, *args, **options)


@pytest.fixture
def auth(add_user: AddUser) -> dict[str, str]:
    """The headers of a user with both flags and plenty of requests."""
    return {"Authorization": add_user(coefficient=1000)}


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small photo."""
    return png_of(Image.new("RGB", (8, 8), "navy"))


@pytest.fixture(scope="session")
def photo(png: bytes) -> str:
    """The same as base64."""
    return base64.b64encode(png).decode()


# --- the real parts


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The bundled model, loaded once for all tests."""
    return load(Settings.from_env({"AUGU_DATA_DIR": str(tmp_path_factory.mktemp("bundled"))}))


@pytest.fixture(scope="session")
def dev_photos() -> Path:
    """The folder of the labelled photos."""
    folder = Path(os.environ.get("AUGU_SHARED", "nowhere")) / "photos" / "dev"
    if not folder.is_dir():
        missing("AUGU_SHARED")
    return folder


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
        """What the application has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def run(self, *command: str) -> str:
        """Run an augu-api command against the server's database; its standard output."""
        return augu_api(*command, env=self.env, within=self.within)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def augu_api(*command: str, env: dict[str, str], within: tuple[str, ...] = ()) -> str:
    """Run the command line as a person would."""
    whole = [*within, BIN / "augu-api", *command]
    return subprocess.run(whole, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


Serve = Callable[..., Server]


@contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Start gunicorn as the Procfile does, its data in a folder: `start(AUGU_QUEUE="1", …)` takes its settings.

    `within` is a command that runs another one, somewhere else.
    """
    running = []

    def start(address: str = LOOPBACK, port: int = 0, within: tuple[str, ...] = (), **settings: str) -> Server:
        port = port or free_port()
        env = os.environ | {"AUGU_DATA_DIR": str(folder / "served")} | settings
        log = folder / f"gunicorn-{address}-{port}.log"
        with log.open("ab") as out:
            command = [*within, BIN / "gunicorn", "--bind", f"{address}:{port}"]
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


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Servers of one test, as `serving` starts them."""
    with serving(tmp_path) as start:
        yield start


@dataclass
class Postgres:
    """A real PostgreSQL in a folder of its own, which can be stopped and started again."""

    programs: Path
    folder: Path
    port: int
    address: str

    @classmethod
    def made(cls, address: str = LOOPBACK) -> Self:
        """A new one, running, for the address's own network."""
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
        """Of its maintenance database."""
        return f"postgresql://augu@{self.address}:{self.port}/postgres"

    def emptied(self) -> str:
        """The URL of an empty database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    server = Postgres.made()
    yield server
    server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgres_server.emptied()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'augu.db'}"
    return str(request.getfixturevalue("postgres")).replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with tables, of either kind."""
    engine = database.connect(database_url)
    database.upgrade(engine)
    yield engine
    engine.dispose()


AtOnce = Callable[..., list[Any]]


def _after(barrier: Barrier, function: Callable[..., Any], *args: object) -> Any:
    barrier.wait(60)
    return function(*args)


@pytest.fixture(scope="session")
def at_once() -> Iterator[AtOnce]:
    """Call a function in 8 processes at the same moment: `at_once(function, *args)` returns what each returned."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest"])
    with context.Manager() as manager, ProcessPoolExecutor(8, context) as pool:
        barrier = manager.Barrier(8)

        def call(function: Callable[..., Any], *args: object) -> list[Any]:
            called = [pool.submit(_after, barrier, function, *args) for _ in range(8)]
            return [future.result(120) for future in called]

        yield call


class Redis:
    """A real Redis that can be stopped and started again, for the address's own network; it keeps nothing."""

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


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    """An empty Redis."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: Redis) -> str:
    """The URL of an empty Redis."""
    return redis_server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. It is not kept for longer: no other event loop can run in this thread beside Playwright's."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0, args=quiet)
        yield chromium
        chromium.close()


@contextmanager
def fronting(folder: Path) -> Iterator[Callable[..., int]]:
    """Start a real nginx with deploy/nginx.conf in front of ports: `start(8000)` returns the port it listens on.

    A port may be one of another address, as text; a host gets `patience` to answer.
    """
    program = shutil.which("nginx")
    if program is None:
        missing("nginx")
    running = []

    def start(*upstreams: int | str, patience: str = "60s") -> int:
        port = free_port()
        given = (ROOT / "deploy" / "nginx.conf").read_text()
        [line] = [line for line in given.splitlines() if "server 127.0.0.1:8000" in line]
        addresses = [each if isinstance(each, str) else f"{LOOPBACK}:{each}" for each in upstreams]
        given = given.replace(line, "\n".join(line.replace("127.0.0.1:8000", each) for each in addresses))
        given = given.replace("proxy_read_timeout 60s;", f"proxy_read_timeout {patience};")
        config = folder / "nginx.conf"
        config.write_text(given.replace("listen 80;", f"listen {port};"))
        command = [str(program), "-p", str(folder), "-c", str(config), "-g", f"daemon off; pid {folder}/nginx.pid;"]
        running.append(subprocess.Popen(command))
        wait_until(lambda: answers(port))
        return port

    try:
        yield start
    finally:
        for process in running:
            process.terminate()
            process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Nginx in one test, as `fronting` starts it."""
    with fronting(tmp_path) as start:
        yield start
