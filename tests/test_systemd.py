"""The units in deploy/: systemd accepts them, rates the service as well confined, and it works as it is confined.

The backups are made by the commands of their unit.
"""

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import pytest

from augu_api.config import ROOT
from tests.helpers import BIN, OBJECTS, missing
from tests.servers import Serve, call, photo

UNIT = ROOT / "deploy" / "augu-api.service"
UNITS = sorted((ROOT / "deploy").glob("augu-api*"))
CONFINED = (sys.executable, str(ROOT / "tests" / "confined.py"), str(UNIT))


@pytest.fixture
def analyze() -> str:
    """The program systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        missing("systemd-analyze")
    return program


@pytest.fixture
def confined(analyze: str) -> tuple[str, ...]:
    """A prefix that runs a command as the unit confines the service."""
    if find_library("seccomp") is None:
        missing("libseccomp")
    return CONFINED


@pytest.mark.parametrize("name", [path.name for path in UNITS])
def test_a_unit(tmp_path: Path, analyze: str, name: str) -> None:
    """Systemd accepts each unit."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/augu-api/.venv/bin", str(BIN)).replace("/opt/augu-api", str(ROOT))
        (tmp_path / unit.name).write_text(text)
    command = [analyze, "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_backups(tmp_path: Path) -> None:
    """The unit's commands save a backup and remove the old ones, and nothing else."""
    text = (ROOT / "deploy" / "augu-api-backup.service").read_text()
    folder = tmp_path / "backups"
    folder.mkdir()
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path / "data")}
    subprocess.run([BIN / "augu-api", "users", "add", "alice"], env=env, check=True, capture_output=True)
    for name, days in (("old.gz", 32), ("new.gz", 29), ("old.txt", 32)):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - days * 86400))
    for command in re.findall("^ExecStart(?:Post)?=(.*)$", text, re.MULTILINE):
        plain = command.replace("$$", "$").replace("%%", "%")  # as systemd reads them
        plain = plain.replace("/opt/augu-api/.venv/bin", str(BIN)).replace("/var/lib/augu-api-backups", str(folder))
        subprocess.run(shlex.split(plain), env=env, check=True, capture_output=True)
    [made] = {path.name for path in folder.iterdir()} - {"new.gz", "old.txt"}
    assert re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}.gz", made)
    assert b'"name":"alice"' in gzip.decompress((folder / made).read_bytes())


def test_its_exposure(analyze: str) -> None:
    """Systemd rates the unit's exposure below 3, of 10."""
    done = subprocess.run([analyze, "security", "--offline=yes", UNIT], stdout=subprocess.PIPE, check=False, text=True)
    [level] = re.findall(r"Overall exposure level for augu-api.service: ([0-9.]+)", done.stdout)
    assert float(level) < 3


REFUSED = {
    "another kind of socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "another user": "import os; os.setuid(os.getuid())",
    "a mount": "import ctypes; assert ctypes.CDLL(None, use_errno=True).mount(b'x', b'/x', b'tmpfs', 0, 0) == 0",
    "a higher priority": "import os; os.setpriority(os.PRIO_PROCESS, 0, 0)",
}


@pytest.mark.parametrize("code", REFUSED.values(), ids=REFUSED)
def test_it_confines(confined: tuple[str, ...], code: str) -> None:
    """What the service does not need is refused, so that the next test shows something."""
    done = subprocess.run([*confined, sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert re.search("PermissionError|OSError: .*Address family not supported|AssertionError", done.stderr)


@pytest.mark.parametrize("engine", ["onnx", "torchvision"])
def test_it_serves(serve: Serve, confined: tuple[str, ...], tmp_path: Path, engine: str) -> None:
    """As the unit confines it, the service serves photos and draws on them, replaces a worker, and stops."""
    server = serve(WEB_CONCURRENCY="2", AUGU_ENGINE=engine, within=confined, AUGU_METRICS_TOKEN="m" * 32)
    token = server.run("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL").strip()
    for accept in ("application/json", "image/png"):
        reply = call(server.port, OBJECTS, photo("astronaut"), token, Accept=accept)
        assert (reply.status, reply.headers["Content-Type"]) == (200, accept)
    assert b"augu_objects_total" in call(server.port, "/metrics", token="m" * 32).body
    server.stop()
    assert server.process.returncode == 0
    printed = server.log.read_text()
    assert "Traceback" not in printed
    assert "not permitted" not in printed
    for path in Path(server.env["AUGU_DATA_DIR"]).iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_doctor(confined: tuple[str, ...], tmp_path: Path) -> None:
    """`augu-api doctor` finds no problem in what the unit hides or refuses."""
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path / "data"), "WEB_CONCURRENCY": "1"}
    done = subprocess.run([*confined, BIN / "augu-api", "doctor"], env=env, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout
    assert " problem " not in done.stdout
