"""README.md is true: its table of settings, and each of its commands on a real installation.

A command is run by test_commands if its program is in RUNS; what cannot be run there stands in ELSEWHERE with the
reason. One that is in neither fails.
"""

import os
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from augu_api.config import ROOT
from tests.helpers import BIN, OBJECTS, answers, free_port, missing, wait_until
from tests.readme import README, Command, commands, with_settings
from tests.servers import Postgres, Serve, Server, add

RUNS = {"augu-api", "createdb", "curl"}
BY_MAKE = "installs for minutes; CI runs `make check test`, and each start of a test is the gunicorn of `make run`"
BY_ROOT = "changes this machine; test_the_unit and test_cluster start what it installs"
BY_ACCOUNT = "needs an account; test_procfile runs what the platform does"
BACKUP = "test_backup and test_backup_of_postgresql run it"
TRAINING = "trains for hours; test_training and test_evaluation do it with few photos"
ELSEWHERE = {
    "make run": BY_MAKE,
    "make test": BY_MAKE,
    "cd /opt/augu-api && make install": BY_MAKE,
    "AUGU_MODEL=models/coins make run": BY_MAKE,
    "make train": TRAINING,
    "augu-api weights evaluate models/coins": TRAINING,
    "augu-api weights pull": "downloads 78 MB; test_cli pulls from a server of its own",
    "augu-api weights export": "needs what was pulled; test_engines exports",
    "journalctl ": "needs systemd's journal; test_usage pipes a log in",
    "sudo ": BY_ROOT,
    "printf 'AUGU_ENV=production": BY_ROOT,
    "heroku ": BY_ACCOUNT,
    "git push heroku": BY_ACCOUNT,
    "git pull": "changes this checkout",
    "mkdir -p backup": BACKUP,
    "sqlite3 data/augu.db": BACKUP,
    "cp -p backup/": BACKUP,
    "pg_dump ": BACKUP,
    "pg_restore ": BACKUP,
    "openssl rand -hex 32 > data/metrics_token": "test_monitoring writes such a token",
    "AUGU_METRICS_TOKEN=": "serves until it is stopped; test_monitoring starts it",
    "prometheus ": "serves until it is stopped; test_monitoring starts it",
}
PROGRAMS = re.compile(r"^## From your program\n.*?(?=^## )", re.DOTALL | re.MULTILINE)  # test_examples runs them
COMMANDS = list(commands(PROGRAMS.sub("", README.read_text())))


def program(command: Command) -> str:
    """The first word that sets no variable."""
    return next(word for word in command.text.split() if not re.match("[A-Z_]+=", word))


def elsewhere(command: Command) -> bool:
    return command.text.startswith(tuple(ELSEWHERE))


def test_the_settings() -> None:
    """The table of settings is what augu_api/config.py says; `make readme` writes it anew."""
    readme = README.read_text()
    assert "| `AUGU_ENV` |" in readme
    assert with_settings(readme) == readme


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.text[:60])
def test_every_command_is_known(command: Command) -> None:
    """A new command is run here, or says why it is not."""
    assert program(command) in RUNS or elsewhere(command), f"Add {command.text!r} to RUNS or ELSEWHERE"


def test_no_reason_is_left_over() -> None:
    """What is named here is in README.md."""
    assert [start for start in ELSEWHERE if not any(c.text.startswith(start) for c in COMMANDS)] == []
    assert {program(command) for command in COMMANDS if not elsewhere(command)} == RUNS


# --- the commands


@dataclass
class Site:
    """A folder as README.md takes it to be, in which a real server serves, and how its commands are run there."""

    folder: Path
    server: Server
    replaced: dict[str, str]

    def run(self, command: Command) -> str:
        """Run a command in the shell; its standard output. It must succeed, and curl's reply be one of success."""
        if shutil.which(program(command), path=self.server.env["PATH"]) is None:
            missing(program(command))
        text = command.text
        for given, real in self.replaced.items():
            text = text.replace(given, real)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.server.env,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command.text}: {done.stderr.decode()}{done.stdout.decode(errors='replace')}"
        return done.stdout.decode(errors="replace")

    def run_each(self, *starts: str) -> None:
        """Run those commands of README.md that begin so; each of `starts` is there."""
        for start in starts:
            [command] = [command for command in COMMANDS if command.text.startswith(start)]
            self.run(command)


@pytest.fixture
def site(tmp_path: Path, serve: Serve) -> Site:
    """A new installation with what the README names: photos, a log, a token in TOKEN."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    with Image.open(ROOT / "examples" / "street.png") as photo:
        photo.convert("RGB").save(folder / "photo.jpg")
    path = f"{BIN}:{os.environ['PATH']}"
    server = serve(AUGU_DATA_DIR=str(folder / "data"), AUGU_DEEPSTACK="1", CURL_HOME=str(folder), PATH=path)
    (folder / "augu.log").symlink_to(server.log)
    server.env["TOKEN"] = add(server, "reader", 1000)
    return Site(folder, server, {"http://127.0.0.1:8000": server.url})


def with_postgresql(site: Site, url: str) -> Site:
    """The site, whose commands for PostgreSQL meet a real one."""
    server = urlsplit(url)
    site.server.env |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "augu", "DATABASE_URL": url}
    site.replaced["postgresql://augu:password@localhost/augu"] = url
    return site


def shape(text: str) -> str:
    """A reply without what differs from run to run: its numbers and its white space."""
    return re.sub(r"\s", "", re.sub(r"[0-9]+(\.[0-9]+)?", "0", text))


def test_commands(site: Site, postgres_server: Postgres, redis: str) -> None:
    """The commands work as they stand, in their order, and those whose reply is shown give it."""
    subprocess.run(["dropdb", "--if-exists", f"--maintenance-db={postgres_server.url}", "augu"], check=True)
    with_postgresql(site, postgres_server.url.replace("/postgres", "/augu"))
    del site.server.env["DATABASE_URL"]
    site.replaced["redis://localhost:6379"] = redis
    for command in COMMANDS:
        if not elsewhere(command):
            output = site.run(command)
            assert not command.output or shape(output) == shape(command.output), command.text
    assert {path.name for path in site.folder.iterdir()} >= {"boxes.png"}


# --- what is not run by that


@pytest.fixture
def calling(site: Site) -> Iterator[list[int]]:
    """Somebody who calls the server all the time; the statuses of the replies."""
    statuses: list[int] = []
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            statuses.append(status(site, site.server.url))

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: bool(statuses))
    yield statuses
    stopped.set()
    thread.join()


def status(site: Site, url: str) -> int:
    headers = {"Authorization": f"Bearer {site.server.env['TOKEN']}", "Content-Type": "image/png"}
    return requests.post(url + OBJECTS, (ROOT / "examples" / "street.png").read_bytes(), headers=headers).status_code


def test_backup(site: Site, serve: Serve, calling: list[int]) -> None:
    """A backup of SQLite that is made while requests are counted is whole, and brings users and tokens back."""
    for _ in range(10):
        shutil.rmtree(site.folder / "backup", ignore_errors=True)
        site.run_each("mkdir -p backup", "sqlite3 data/augu.db")
        copy = sqlite3.connect(site.folder / "backup" / "augu.db")
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copy.close()
    assert set(calling) == {200}
    other = serve(AUGU_DATA_DIR=str(site.folder / "other" / "data"))
    assert status(site, other.url) == 401
    other.stop()
    shutil.copytree(site.folder / "backup", site.folder / "other" / "backup")
    site.folder /= "other"
    site.run_each("cp -p backup/")
    assert status(site, serve(AUGU_DATA_DIR=str(site.folder / "data")).url) == 200
    assert (site.folder / "data" / "secret_key").stat().st_mode & 0o777 == 0o600


def test_backup_of_postgresql(site: Site, postgres: str, serve: Serve) -> None:
    """A dump brings the users of a PostgreSQL back."""
    with_postgresql(site, postgres)
    names = site.server.run("db", "upgrade"), site.server.run("users", "add", "alice"), site.server.run("users", "list")
    site.run_each("mkdir -p backup", "pg_dump ")
    site.server.run("users", "remove", "alice")
    assert site.server.run("users", "list") != names[-1]
    site.run_each("pg_restore ")
    assert site.server.run("users", "list") == names[-1]


def test_procfile(tmp_path: Path, postgres: str) -> None:
    """The Procfile's lines are all that a platform needs to run, with the port and the database that it gives."""
    port = free_port()
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "AUGU_ENV": "production",
        "AUGU_SECRET_KEY": "s" * 64,
        "AUGU_DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": postgres.replace("postgresql:", "postgres:"),
        "PORT": str(port),
    }
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    subprocess.run(["sh", "-c", lines["release"]], cwd=ROOT, env=env, check=True)
    web = subprocess.Popen(["sh", "-c", f"exec {lines['web']}"], cwd=ROOT, env=env)
    try:
        wait_until(lambda: answers(port))
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=60).status_code == 200)
    finally:
        web.terminate()
        web.wait()
    assert not (tmp_path / "data" / "secret_key").exists()


def test_the_unit(tmp_path: Path) -> None:
    """Systemd finds nothing wrong in the unit."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        missing("systemd-analyze")
    unit = tmp_path / "augu-api.service"
    given = (ROOT / "deploy" / unit.name).read_text()
    unit.write_text(given.replace("/opt/augu-api/.venv/bin", str(BIN)).replace("/opt/augu-api", str(ROOT)))
    done = subprocess.run([str(verify), "verify", "--man=no", str(unit)], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_parsing() -> None:
    """The blocks' commands are found, however they are written, and nothing else is."""
    text = "Text\n    not a block\n\n    one  # why\n    two \\\n        on |\n        end\n\nText\n\n"
    text += "    $ three\n\n    {a:\n      b}\n"
    assert list(commands(text + "\n```\n    four\n```\n")) == [
        Command("one  # why"),
        Command("two  on | end"),
        Command("three", "\n{a:\n  b}\n"),
    ]
