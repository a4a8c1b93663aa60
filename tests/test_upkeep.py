"""What docs/operating.md says of log rotation, time zones and cleaners, on real programs."""

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from augu_api.config import ROOT, Settings
from tests.helpers import missing, wait_until
from tests.readme import BLOCK
from tests.servers import Serve, Server, add, augu_api, call

OPERATING = (ROOT / "docs" / "operating.md").read_text()


def requests(server: Server, token: str, count: int) -> None:
    """Make requests, and wait until they are logged."""
    before = len(server.records)
    for _ in range(count):
        assert call(server.port, "/session", token=token).status == 200
    wait_until(lambda: len(server.records) >= before + count)


def counted(server: Server, *arguments: str) -> int:
    """How many requests of the user `augu-api usage` counts."""
    rows = json.loads(server.run("usage", "--json", *arguments))
    return sum(row["requests"] for row in rows if row["user"] == "alice")


def test_logrotate(serve: Serve, tmp_path: Path) -> None:
    """With the documented configuration, no line is lost, the service goes on in the file, and `usage` reads all."""
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin") or missing("logrotate")
    server = serve()
    [text] = [block for language, block in BLOCK.findall(OPERATING) if language == "text" and "copytruncate" in block]
    config = tmp_path / "logrotate.conf"
    config.write_text(text.replace("/var/log/augu.log", str(server.log)))
    config.chmod(0o644)
    token = add(server, coefficient=10)
    for count in (3, 4, 5):
        requests(server, token, count)
        if count < 5:
            command = [program, "--force", "--state", str(tmp_path / "state"), str(config)]
            subprocess.run(command, check=True)
    logs = sorted(tmp_path.glob(f"{server.log.name}*"))
    assert [path.name.removeprefix(server.log.name) for path in logs] == ["", ".1", ".2.gz"]
    assert b"\0" not in server.log.read_bytes()
    assert [counted(server, str(path)) for path in logs] == [5, 4, 3]


def test_time_zones(serve: Serve, tmp_path: Path) -> None:
    """The log has the offset of TZ; `usage` compares and shows times in UTC, wherever it runs, and so do bans."""
    server = serve(TZ="Asia/Tokyo")
    token = add(server)
    requests(server, token, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0900", server.records[-1]["time"])
    server.env["TZ"] = "America/New_York"
    now = datetime.now(UTC).replace(tzinfo=None)
    assert counted(server, "--since", "5m", str(server.log)) == 1
    assert counted(server, "--since", (now - timedelta(minutes=5)).isoformat(), str(server.log)) == 1
    assert counted(server, "--since", (now + timedelta(minutes=5)).isoformat(), str(server.log)) == 0
    assert "+00:00" in server.run("usage", str(server.log))
    ban = json.loads(server.run("users", "ban", "alice", "--minutes", "5", "--json"))["banned_until"]
    assert abs(datetime.fromisoformat(ban) - datetime.now(UTC) - timedelta(minutes=5)) < timedelta(minutes=1)
    assert call(server.port, "/session", token=token).status == 403


@pytest.fixture
def tmpfiles() -> str:
    """The program systemd-tmpfiles."""
    return shutil.which("systemd-tmpfiles") or missing("systemd-tmpfiles")


def test_nothing_cleans_var_lib(tmpfiles: str) -> None:
    """No rule of this system lets systemd-tmpfiles remove something old in /var/lib or our folder in it."""
    rules = subprocess.run([tmpfiles, "--cat-config"], check=True, capture_output=True, text=True).stdout
    found = [line.split() for line in rules.splitlines() if re.match(r"\w\S*\s+/var/lib/?(augu\S*)?\s", line)]
    assert [rule for rule in found if rule[5:] and rule[5] != "-"] == []


def test_a_cleaner_in_the_data_folder(tmp_path: Path, tmpfiles: str) -> None:
    """Where systemd-tmpfiles cleans, it removes a secret that nobody reads, and the next start makes another one."""
    folder = tmp_path / "data"
    env = os.environ | {"AUGU_DATA_DIR": str(folder)}
    augu_api("users", "list", env=env)
    secret = Settings.from_env(env).secret_key
    os.utime(folder / "secret_key", (0, 0))
    (tmp_path / "clean.conf").write_text(f"e {folder} - - - aM:10d\n")
    subprocess.run([tmpfiles, "--clean", str(tmp_path / "clean.conf")], check=True)
    assert (folder / "augu.db").exists()
    assert Settings.from_env(env).secret_key != secret
