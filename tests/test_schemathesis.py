"""Schemathesis finds no difference between openapi.json and the service, for each kind of caller."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

from augu_api.config import Settings
from augu_api.flags import Flag
from augu_api.web.service import Service
from tests.helpers import BAD_TOKEN, BIN, METRICS_TOKEN, add_user_to

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
PLENTY = 10_000
USERS: dict[str, dict[str, Any]] = {
    "good": {"coefficient": PLENTY},
    "without flags": {"coefficient": PLENTY, "flags": Flag(0)},
    "banned": {"flags": Flag.BANNED},
    "exhausted": {"coefficient": 0},  # 429, and a ban after 50 of them
}
OTHERS = {"none": "", "wrong": BAD_TOKEN["Authorization"], "of the metrics": f"Bearer {METRICS_TOKEN}"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With every route that can be switched on."""
    return replace(settings, deepstack=True, metrics_token=METRICS_TOKEN)


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The application behind a real server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("token", [*USERS, *OTHERS])
def test_schemathesis_agrees(url: str, service: Service, tmp_path: Path, token: str) -> None:
    """All of schemathesis's checks pass on every operation, with valid, invalid and unauthorized requests."""
    value = add_user_to(service, **USERS[token]) if token in USERS else OTHERS[token]
    options = [
        "--checks=all",
        "--max-examples=20",
        "--seed=1",
        "--generation-deterministic",
        "--warnings=off",
        "--no-color",
    ]
    options += ["--header", f"Authorization:{value}"] if value else []
    if token != "good":  # only these depend on the caller, and a refused request is not examined further
        operations = "prometheus" if token == "of the metrics" else "images.objects|detection|session|prometheus"
        options += ["--include-operation-id-regex", operations]
        options += ["--phases", "examples,coverage"]
    run = subprocess.run(
        [BIN / "st", "run", f"{url}/openapi.json", *options],
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stdout
