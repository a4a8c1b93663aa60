"""Fixtures for all tests: the application with a fake detector, the bundled model, and the labelled photos.

The fixtures that start servers and a browser are in tests/server_fixtures.py. A test whose server or data is missing
is skipped, or fails if AUGU_TEST_ALL=1. AUGU_SHARED names a folder with labelled photos in COCO's format
(photos/dev/instances.json and photos/dev/images).
"""

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from augu_api import photos
from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.detection import Detector
from augu_api.detection.engines import load
from augu_api.store import database
from augu_api.web.service import KEY, Service
from tests.helpers import AddUser, AtOnce, FakeDetector, MakeApp, add_user_to, after, missing, png_of

pytest_plugins = ["tests.parallel", "tests.quick", "tests.server_fixtures"]
photos.configure()  # as every program does when it starts


# --- the application with a fake detector


@pytest.fixture(scope="session")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database without users, because migrating one for each test takes long."""
    path = tmp_path_factory.mktemp("tables") / "augu.db"
    database.connect_upgraded(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_tables: Path) -> Settings:
    """The default settings, with a data folder of the test's own."""
    settings = Settings.from_env({"AUGU_DATA_DIR": str(tmp_path / "data")})
    shutil.copy(empty_tables, settings.data_dir)
    return settings


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Make applications whose connections are closed after the test: `make_app(settings, detector)`."""
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
    """The application's parts, as its views use them."""
    found = app.extensions[KEY]
    assert isinstance(found, Service)
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


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


# --- the model, photos and processes


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: threads that wait for each other take most of the time while another process runs."""
    import torch  # noqa: PLC0415 - conftest.py is read where torch is not installed

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def at_once() -> Iterator[AtOnce]:
    """Call a function in 8 processes at the same moment: `at_once(function, *args)` returns what each returned."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers"])
    with context.Manager() as manager, ProcessPoolExecutor(8, context) as pool:
        barrier = manager.Barrier(8)

        def call(function: Callable[..., Any], *args: object) -> list[Any]:
            called = [pool.submit(after, barrier, function, *args) for _ in range(8)]
            return [future.result(120) for future in called]

        yield call
