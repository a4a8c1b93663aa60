"""Shared helpers: constants, waiting, photos, the fake detector, users, and checks of replies."""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path
from random import SystemRandom
from threading import Barrier
from typing import Any, NoReturn

import numpy as np
import pytest
from flask import Flask
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from augu_api import tokens
from augu_api.config import Settings
from augu_api.detection import Detection
from augu_api.flags import Flag
from augu_api.store import accounts
from augu_api.web.service import Service

BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"
BOTH = Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL
OBJECTS = "/images/classify/objects"
DETECTION = "/v1/vision/detection"
METRICS_TOKEN = "m" * 32
BAD_TOKEN = {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.MTox.AAAA"}
Headers = dict[str, str]
MakeApp = Callable[..., Flask]
AddUser = Callable[..., str]
AtOnce = Callable[..., list[Any]]


def needed(module: str) -> Any:
    """Import a module that `make quick` does not install."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        return missing(module)


def missing(what: str) -> NoReturn:
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
    """A port on which nothing listens, and which a test in another process is unlikely to get.

    The system gives ports from 32768 on to any connection.
    """
    while answers(port := SystemRandom().randrange(10_000, 32_768)):
        pass
    return port


def answers(port: int, address: str = LOOPBACK) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def picture(name: str) -> Image.Image:
    """One of scikit-image's photos: "astronaut" shows a person, "chelsea" a cat, "coffee" a cup."""
    return Image.fromarray(getattr(needed("skimage.data"), name)())


def png_of(image: Image.Image, **options: Any) -> bytes:
    """The image as a PNG file."""
    return file_of(image, "PNG", **options)


def file_of(image: Image.Image, format: str, **options: Any) -> bytes:
    """The image as a file of the given format."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def after(barrier: Barrier, function: Callable[..., Any], *args: object) -> Any:
    """Call the function as soon as all parties have reached the barrier."""
    barrier.wait(60)
    return function(*args)


@dataclass
class FakeDetector:
    """Returns the detections in `found`; records each photo and whether it could use all cores."""

    found: list[Detection] = field(
        default_factory=lambda: [
            Detection("person", (1.234, 2.345, 6.789, 7.891), 0.89334),
            Detection("cat", (0.0, 0.0, 8.0, 8.0), 0.5),
            Detection("dog", (0.0, 0.0, 8.0, 8.0), 0.123),
        ]
    )
    names: tuple[str, ...] = ("person", "cat", "dog")
    facts: dict[str, str] = field(default_factory=lambda: {"model": "fake", "engine": "none", "sha256": "0"})
    seen: list[NDArray[np.uint8]] = field(default_factory=list)
    all_cores: list[bool] = field(default_factory=list)

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """Return the same objects for every photo."""
        self.seen.append(photo)
        self.all_cores.append(all_cores)
        return self.found


def add_user_to(service: Service, name: str = "alice", flags: Flag = BOTH, **options: Any) -> str:
    """Add a user and return the Authorization header's value."""
    return f"Bearer {new_token(service.engine, service.settings, name, flags=flags, **options)}"


def new_token(engine: Engine, settings: Settings, name: str, flags: Flag = BOTH, **options: Any) -> str:
    """A new user's token."""
    with Session(engine) as session, session.begin():
        token = accounts.current_token(accounts.create(session, name, flags=flags, **options))
    return tokens.issue(settings.secret_key, token)


def bearer(authorization: str) -> Headers:
    """The headers with this Authorization value."""
    return {"Authorization": authorization}


def says(response: TestResponse, status: int, error: str, message: str, details: Any = None) -> None:
    """The failure has exactly this envelope, minified and in this order."""
    assert response.status_code == status
    more = f',"details":{json.dumps(details, separators=(",", ":"))}' if details else ""
    assert response.text == f'{{"statusCode":{status},"error":"{error}","message":"{message}"{more}}}'
    assert response.content_type == "application/json"


@contextmanager
def full(service: Service) -> Iterator[None]:
    """All slots are taken, each by another caller."""
    with ExitStack() as slots:
        for caller in range(service.settings.queue + 1):
            slots.enter_context(service.admission.slot(f"caller {caller}"))
        yield


BOUNDARY = "----photo"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def multipart(body: bytes, disposition: str = 'name="data"', mimetype: str = "") -> bytes:
    """A form with one part between two other fields."""
    kind = f"Content-Type: {mimetype}\r\n" if mimetype else ""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n{kind}\r\n".encode()
    other = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n'.encode()
    return other + head + body + b"\r\n" + other + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A write beyond this many bytes of a file fails, whatever code makes it."""
    before, maximum = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, maximum))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, maximum))
