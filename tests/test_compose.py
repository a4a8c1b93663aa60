"""compose.yaml: it fits the settings, the image and nginx's configuration. Docker itself is not needed."""

import re
import subprocess
from dataclasses import fields
from typing import Any

import pytest

from augu_api import secret_files
from augu_api.config import ROOT, Settings
from tests.helpers import needed

CONFIGURATION = ROOT / "augu_api" / "operating" / "gunicorn_conf.py"
VARIABLES = {f.metadata["variable"] for f in fields(Settings)} | set(secret_files.VARIABLES)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = needed("yaml").safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def test_the_service(services: dict[str, Any]) -> None:
    """It passes known variables on, unset ones as empty, which count as unset; it may write to its volume alone."""
    service = services["augu-api"]
    assert set(service["environment"]) <= VARIABLES
    assert [name for name, value in service["environment"].items() if not value.startswith(f"${{{name}:-")] == []
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    [volume] = re.findall(r"^VOLUME (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"data:{volume}" in service["volumes"]
    [graceful] = re.findall(r"^graceful_timeout = (\d+)", CONFIGURATION.read_text(), re.MULTILINE)
    assert int(service["stop_grace_period"].removesuffix("s")) > int(graceful)


def test_the_profiles(services: dict[str, Any]) -> None:
    """Nothing but the service starts unless a profile of that name asks for it."""
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "augu-api": None,
        "nginx": ["nginx"],
        "postgresql": ["postgresql"],
        "redis": ["redis"],
    }


def test_nginx(services: dict[str, Any]) -> None:
    """Its command points every upstream of deploy/nginx.conf at the service."""
    editing = services["nginx"]["command"][2].partition(" >")[0].replace("/given.conf", "deploy/nginx.conf")
    edited = subprocess.check_output(["sh", "-c", editing], cwd=ROOT, text=True)
    assert "127.0.0.1" not in edited.partition("upstream augu {")[2].partition("}")[0]
    assert edited.count("server augu-api:8000 ") == 2
