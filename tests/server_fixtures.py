"""Fixtures of real servers and of a real browser."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine

from augu_api.store import database, migrate
from tests.helpers import missing, needed
from tests.servers import Nginx, Postgres, Redis, Serve, Server, fronting, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def not_quick(pytestconfig: pytest.Config) -> None:
    """Skip a test that needs a server or the browser if `--quick` is given."""
    if pytestconfig.getoption("quick"):
        pytest.skip("--quick starts no servers")


def with_tables(folder: Path, empty_tables: Path) -> Path:
    """The folder, with a database for the servers in it: each would otherwise spend 0.3 s on migrating a new one."""
    (folder / "served").mkdir(mode=0o700)
    shutil.copy(empty_tables, folder / "served")
    return folder


@pytest.fixture
def serve(tmp_path: Path, empty_tables: Path, not_quick: None) -> Iterator[Serve]:
    """Servers of one test, as `serving` starts them."""
    with serving(with_tables(tmp_path, empty_tables)) as start:
        yield start


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, not_quick: None) -> dict[str, str]:
    """The settings of a server whose model finds nothing, for tests about other things: `serve(**tiny_model)`."""
    folder = tmp_path_factory.mktemp("tiny")
    needed("tests.tiny_model").write(folder)
    return {"AUGU_MODEL": str(folder), "AUGU_ENGINE": "onnx"}


@pytest.fixture(scope="module")
def serve_for_all(tmp_path_factory: pytest.TempPathFactory, empty_tables: Path, not_quick: None) -> Iterator[Serve]:
    """Servers that the tests of a module share, each with its own data folder; for a module in parallel.TOGETHER."""
    with ExitStack() as running:

        def start(**settings: str) -> Server:
            folder = with_tables(tmp_path_factory.mktemp("shared"), empty_tables)
            return running.enter_context(serving(folder))(**settings)

        yield start


@pytest.fixture(scope="session")
def postgres_server(not_quick: None) -> Iterator[Postgres]:
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
    migrate.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def redis_server(tmp_path: Path, not_quick: None) -> Iterator[Redis]:
    """An empty Redis."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: Redis) -> str:
    """The URL of an empty Redis."""
    return redis_server.url


@pytest.fixture
def nginx(tmp_path: Path, not_quick: None) -> Iterator[Nginx]:
    """Nginx in one test, as `fronting` starts it."""
    with fronting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def browser(not_quick: None) -> Iterator["Browser"]:
    """A real Chromium, for one module only: while Playwright's event loop runs, this thread cannot run another."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with needed("playwright.sync_api").sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0, args=quiet)
        yield chromium
        chromium.close()
