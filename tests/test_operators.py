"""The command line in another's shell: the wrong user, the wrong environment, full disks and closed pipes."""

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from augu_api.config import ROOT
from augu_api.operating import interpreter
from augu_api.operating.cli import environment
from tests.helpers import BIN, missing, wait_until

AUGU = str(BIN / "augu-api")
AS_ANYBODY = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
SECRET = "s" * 32
UNIT = """
[Service]
User=augu
WorkingDirectory={folder}
EnvironmentFile={environment}
ExecStart={folder}/.venv/bin/gunicorn wsgi:app
"""


def shell(line: str, *within: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, with `augu-api` in its path."""
    path = f"{BIN}:{os.environ['PATH']}"
    command = [*within, "bash", "-o", "pipefail", "-c", line]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AUGU_")} | {"PATH": path} | env
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environ,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the user alice."""
    folder = tmp_path / "data"
    assert shell("augu-api users add alice --id 42", AUGU_DATA_DIR=str(folder)).returncode == 0
    return folder


# --- a deployed service


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[str, ...]:
    """A prefix that runs a command where this checkout's unit is installed as docs/operating.md says."""
    folder, settings = tmp_path / "system", tmp_path / "augu-api.env"
    folder.mkdir()
    settings.write_text(f"AUGU_ENV=production\nAUGU_DATA_DIR={tmp_path}/data\nAUGU_SECRET_KEY={SECRET}\n")
    (folder / environment.UNIT.name).write_text(UNIT.format(folder=ROOT, environment=settings))
    mount = f'mount --bind {shlex.quote(str(folder))} {environment.UNIT.parent} && exec "$0" "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount)
    if subprocess.run([*prefix, "test", "-e", environment.UNIT], capture_output=True, check=False).returncode:
        missing("the right to mount")
    return prefix


def test_a_deployed_service_is_pointed_to(deployed: tuple[str, ...], tmp_path: Path) -> None:
    """A command that does not have the deployed service's settings says how to run it with them."""
    for env in ({}, {"AUGU_DATA_DIR": str(tmp_path / "data")}, {"AUGU_SECRET_KEY": "t" * 32}):
        done = shell("augu-api users list", *deployed, **{"AUGU_DATA_DIR": str(tmp_path / "mine")} | env)
        first = done.stderr.splitlines()[0]
        assert first.startswith(f"This is not the database and the secret of the service in {environment.UNIT}. To use")
        assert f"sudo -u augu sh -c 'set -a; . {tmp_path}/augu-api.env; {sys.prefix}/bin/augu-api …'" in first
    assert (tmp_path / "mine" / "secret_key").exists()


def test_the_services_own_commands_are_quiet(deployed: tuple[str, ...], tmp_path: Path) -> None:
    """A command that is run as it says has the service's settings and is not told about them."""
    line = f"set -a; . {tmp_path}/augu-api.env; augu-api users add alice"
    assert shell(line, *deployed).stderr.splitlines()[0].startswith("Made a new database: ")
    assert shell("augu-api --help", *deployed).stderr == ""


@pytest.mark.parametrize(
    "unit",
    ["", "[Service]\nWorkingDirectory=/elsewhere\nEnvironmentFile=/etc/x\n", f"WorkingDirectory={ROOT}\n", "\0\xff"],
)
def test_other_units(tmp_path: Path, unit: str) -> None:
    """A unit of another installation, or without an environment file, is no service of this one."""
    path = tmp_path / "augu-api.service"
    path.write_bytes(unit.encode("latin-1"))
    assert environment.deployed(path) is None
    assert environment.deployed(tmp_path / "nothing") is None


def test_settings_that_may_not_be_read(tmp_path: Path) -> None:
    """Where the service's settings may not be read, a command without any settings does not have them."""
    unit, settings = tmp_path / "augu-api.service", tmp_path / "augu-api.env"
    unit.write_text(UNIT.format(folder=ROOT, environment=f"-{settings}"))
    settings.write_text("AUGU_MODEL=bundled\n")
    settings.chmod(0)
    found = f"environment.deployed(pathlib.Path({str(unit)!r}))"
    code = (
        f"import pathlib; from augu_api.operating.cli import environment; print(environment.has_its_settings({found}))"
    )
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    assert shell(line, *AS_ANYBODY).stdout == "False\n"
    assert shell(line, *AS_ANYBODY, AUGU_MODEL="bundled").stdout == "True\n"


# --- files of another user


@pytest.mark.parametrize("name", [".", "secret_key", "augu.db"])
def test_denied(data: Path, name: str) -> None:
    """A data folder, secret or database of another user leads to one line that says to be that user."""
    (data / name).chmod(0)
    done = shell("augu-api users list", *AS_ANYBODY, AUGU_DATA_DIR=str(data))
    (data / name).chmod(0o700)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(" - run it as the service's user, with its environment")


def test_denied_where_a_service_is_deployed(deployed: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    """The line names the service's user and its environment file, if there is one."""
    data.chmod(0)
    line = f"set -a; . {tmp_path}/augu-api.env; augu-api users list"
    done = shell(line, *deployed, *AS_ANYBODY)
    data.chmod(0o700)
    [said] = done.stderr.splitlines()
    assert f" - run it as the service's user: sudo -u augu sh -c 'set -a; . {tmp_path}/augu-api.env; " in said


def test_not_the_services_files(data: Path, tmp_path: Path) -> None:
    """A file that has nothing to do with the service does not lead to its user."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    line = f"augu-api detect examples/street.png --annotate {locked}/drawn.png"
    done = shell(line, *AS_ANYBODY, AUGU_DATA_DIR=str(data))
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "run it as" not in done.stderr


# --- one line, whatever happens

LINES = {
    "a full disk": "augu-api users list > /dev/full",
    "a full disk for help": "augu-api --help > /dev/full",
    "a full disk for a token": "augu-api users add bob > /dev/full",
    "bytes as a name": "augu-api users show $'a\\xffb'",
    "a name of two lines": "augu-api users show $'a\\nb'",
    "a name with %": "augu-api users add 100%",
    "an endless id": "augu-api users add bob --id 99999999999999999999999",
    "an endless coefficient": "augu-api users quota alice 1e999",
    "a revision of %": "augu-api db upgrade %",
    "no home": "AUGU_DATA_DIR='~nobody-here/x' augu-api users list",
    "a folder in /proc": "AUGU_DATA_DIR=/proc/augu augu-api users list",
    "bytes as a folder": "AUGU_DATA_DIR=$'/proc/\\xff' augu-api users list",
    "endless bytes": "AUGU_MAX_PIXELS=1000 augu-api detect /dev/zero",
    "no PostgreSQL": "DATABASE_URL=postgresql://augu@127.0.0.1:1/augu augu-api users list",
    "a name that is no host": "DATABASE_URL=postgresql://augu@no.invalid/augu augu-api users list",
    "bytes as a database": "DATABASE_URL=$'postgresql://augu@127.0.0.1/\\xff' augu-api users list",
    "bytes as a storage": "AUGU_RATELIMIT_STORAGE=$'redis://127.0.0.1/\\xff' augu-api users show alice",
    "a folder with a ?": "AUGU_DATA_DIR='/proc/a?b' augu-api users list",
    "no Redis": "AUGU_RATELIMIT_STORAGE=redis://127.0.0.1:1 augu-api users show alice",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_one_line(data: Path, line: str) -> None:
    """An operator's mistake leads to one line and to exit code 1."""
    done = shell(line, AUGU_DATA_DIR=str(data))
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr


WRONG_USE = ["db upgrade ''", "detect examples/street.png --annotate drawn.psd", "users add -x", "users add bob --id x"]


@pytest.mark.parametrize("command", WRONG_USE)
def test_wrong_use(data: Path, command: str) -> None:
    """A command that is used wrongly says how to use it."""
    done = shell(f"augu-api {command}", AUGU_DATA_DIR=str(data))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_a_token_that_cannot_be_printed(data: Path) -> None:
    """If the token cannot be printed, there is no new user, and the old token still works."""
    with sqlite3.connect(data / "augu.db") as connection:
        before = connection.execute("SELECT * FROM users").fetchall()
        for command in ("users add bob", "tokens regenerate alice", "users add bob --json"):
            assert shell(f"augu-api {command} > /dev/full", AUGU_DATA_DIR=str(data)).returncode == 1
            assert connection.execute("SELECT * FROM users").fetchall() == before
    connection.close()


@pytest.mark.parametrize("command", ["--help", "users list", "users list --json", "doctor", "usage /dev/null"])
def test_a_closed_pipe(data: Path, command: str) -> None:
    """If nobody reads the output, a command ends without a word."""
    done = shell(f"augu-api {command} | exec true", AUGU_DATA_DIR=str(data))
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_another_encoding(data: Path) -> None:
    """A terminal whose encoding lacks a character gets an escape instead."""
    with sqlite3.connect(data / "augu.db") as connection:
        connection.execute("UPDATE users SET name = '\N{CYRILLIC SMALL LETTER A}lice'")
    connection.close()
    done = shell("augu-api users list", PYTHONIOENCODING="latin-1", LC_ALL="C", AUGU_DATA_DIR=str(data))
    assert "\\u0430lice" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def locked(data: Path) -> Iterator[Path]:
    """A data folder in whose database another program is writing."""
    connection = sqlite3.connect(data / "augu.db")
    connection.execute("BEGIN IMMEDIATE")
    yield data
    connection.close()


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C ends a command that waits."""
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path / "data")}
    command = [AUGU, "usage"]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        wait_until(lambda: "pipe" in Path(f"/proc/{waiting.pid}/wchan").read_text())
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(60) == 1
        assert waiting.stderr
        assert waiting.stderr.read().strip() == "Aborted!"


def test_a_locked_database(locked: Path) -> None:
    """A database that stays locked is named in one line."""
    url = f"sqlite:///{locked / 'augu.db'}"
    soon = "from augu_api.store import database; database.BUSY_SECONDS = 1; from augu_api.operating import main; main()"
    command = f"{sys.executable} -c '{soon}' users ban alice"
    done = shell(command, DATABASE_URL=url, AUGU_DATA_DIR=str(locked))
    assert done.stderr == "Error: The database cannot be used: database is locked\n"


# --- a Python that another user cannot run


@pytest.mark.parametrize(
    ("venv", "python", "said"), [(0o755, 0o700, True), (0o755, 0o755, False), (0o700, 0o700, False)]
)
def test_a_python_in_a_home(venv: int, python: int, said: bool) -> None:
    """If others can reach the virtual environment and not its Python, the note says where that is and what to do."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # which others can enter, unlike tmp_path
        environment, home = Path(folder, "opt"), Path(folder, "home")
        Path(folder).chmod(0o755)
        for path, mode in ((environment, venv), (home, python)):
            path.mkdir()
            path.chmod(mode)
        (home / "python").mkdir()
        found = interpreter.note(environment, home / "python")
        assert (found is not None) == said
        assert found is None or (f" is in {home}. " in found and "PYTHON=/usr/bin/python3" in found)


def test_what_protect_home_hides() -> None:
    """A Python in a home is no service's, whatever its mode."""
    assert interpreter.closed(Path("/home")) == Path("/home")


def test_make_install_says_so() -> None:
    """`make install` prints the note, or nothing."""
    make = shutil.which("make") or missing("make")
    command = [make, "--silent", "--old-file", ".venv/run", "install"]  # what is installed stays as it is
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    said = interpreter.note(Path(sys.prefix), Path(sys.base_prefix))
    assert done.stderr == (f"{said}\n" if said else "")
