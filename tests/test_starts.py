"""What keeps the service from starting: each program says so in one line, without a traceback."""

import os
import re
import socket
import sqlite3
import subprocess
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from augu_api.config import ROOT
from augu_api.operating.cli import main
from tests.confined import directives
from tests.helpers import BIN, OBJECTS, answers, free_port, missing, wait_until
from tests.servers import Serve, call, photo

Environ = dict[str, str]
SECRET = "s" * 32
COMMANDS = {
    "users": ["users", "list"],
    "upgrade": ["db", "upgrade"],
    "detect": ["detect", str(ROOT / "examples" / "street.png")],
    "usage": ["usage", "/dev/null"],
}
ANYWHERE = "--bind", "127.0.0.1:0"
EVERY = ("gunicorn", "users", "upgrade", "detect", "usage")
STORED = ("gunicorn", "users", "upgrade")
MODEL = ("gunicorn", "detect")


def outcome(program: str, environ: Environ, within: list[str]) -> tuple[int, str]:
    """The exit code of a program and everything that it printed."""
    command = [str(BIN / "augu-api"), *COMMANDS[program]] if program in COMMANDS else [str(BIN / "gunicorn"), *ANYWHERE]
    done = subprocess.run(
        [*within, *command],
        env={"WEB_CONCURRENCY": "1"} | os.environ | environ,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def outcome_here(program: str, environ: Environ) -> tuple[int, str]:
    """The same; a command runs in this process, which has imported everything."""
    if program not in COMMANDS:
        return outcome(program, environ, [])
    result = CliRunner().invoke(main, COMMANDS[program], env=environ)
    assert isinstance(result.exception, SystemExit), result.exception  # any other would print its traceback
    return result.exit_code, result.output


def is_one_line(code: int, printed: str, said: str) -> None:
    """The program ended with one line that says this."""
    assert code in (1, 3), printed
    assert "Traceback" not in printed, printed
    lines = [line.partition("Error: ")[2] for line in printed.splitlines() if "Error: " in line]
    assert [re.search(said, line) is not None for line in lines] == [True], printed


def refuses(programs: tuple[str, ...], said: str, environ: Environ, within: list[str]) -> None:
    """Each of the programs, in an environment of its own, ends with one line that says this."""
    with ThreadPoolExecutor(2) as pool:
        for code, printed in pool.map(lambda name: outcome(name, environ, within), programs):
            is_one_line(code, printed, said)


def at(folder: Path, **environ: str) -> Environ:
    return {"AUGU_DATA_DIR": str(folder)} | environ


def a_file(folder: Path) -> Environ:
    (folder / "file").touch()
    return at(folder / "file")


def a_folder_as_secret(folder: Path) -> Environ:
    (folder / "secret_key").mkdir()
    return at(folder)


def bytes_as_secret(folder: Path) -> Environ:
    (folder / "secret_key").write_bytes(b"\xff" * 64)
    return at(folder)


def a_folder_as_database(folder: Path) -> Environ:
    (folder / "augu.db").mkdir()
    return at(folder)


def no_database(folder: Path) -> Environ:
    (folder / "augu.db").write_bytes(b"no" * 5000)
    return at(folder)


def a_newer_database(folder: Path) -> Environ:
    assert CliRunner().invoke(main, ["db", "upgrade"], env=at(folder)).exit_code == 0
    with sqlite3.connect(folder / "augu.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    return at(folder)


def for_all_users(folder: Path) -> Environ:
    folder.chmod(0o1777)
    return at(folder)


def sqlite_with(option: str) -> Callable[[Path], Environ]:
    return lambda folder: at(folder, DATABASE_URL=f"sqlite:///{folder}/augu.db?{option}")


def set_to(**environ: str) -> Callable[[Path], Environ]:
    return lambda folder: at(folder, **environ)


def wrong_model(folder: Path) -> Environ:
    (folder / "model.json").write_text('{"names": 3}')
    return at(folder, AUGU_MODEL=str(folder))


BAD_OPTION = r"^DATABASE_URL: an option after the \? has a value that cannot be used$"
BAD: dict[str, tuple[Callable[[Path], Environ], tuple[str, ...], str]] = {
    "a port that does not exist": (set_to(PORT="99999"), EVERY, "^PORT: must be at most 65535$"),
    "too many workers": (set_to(WEB_CONCURRENCY="100000"), EVERY, "^WEB_CONCURRENCY: must be at most 1000$"),
    "a file as data folder": (a_file, STORED, "^AUGU_DATA_DIR: .*File exists"),
    "a folder as secret": (a_folder_as_secret, STORED, "^AUGU_DATA_DIR: .*Is a directory.*secret_key"),
    "bytes as secret": (bytes_as_secret, STORED, "^AUGU_DATA_DIR: the secret in .*secret_key"),
    "a data folder for all users": (for_all_users, STORED, "^AUGU_DATA_DIR: every user can write"),
    "a folder as database": (a_folder_as_database, STORED, "^The database cannot be used: unable to open"),
    "a file that is no database": (no_database, STORED, "^The database cannot be used: file is not a database"),
    "a newer database": (a_newer_database, ("gunicorn", "users"), "^DATABASE_URL: the tables are of a newer release"),
    "a timeout that is no number": (sqlite_with("timeout=abc"), (*STORED, "usage"), BAD_OPTION),
    "a switch that is none": (sqlite_with("check_same_thread=abc"), STORED, BAD_OPTION),
    "a number that is too large": (sqlite_with(f"detect_types={2**40}"), STORED, BAD_OPTION),
    "hosts that do not fit": (
        set_to(DATABASE_URL="postgresql://a:b@127.0.0.1:1/x?host=a&host=b&port=c"), (*STORED, "usage"), BAD_OPTION
    ),
    "a bad option of Redis": (
        set_to(AUGU_RATELIMIT_STORAGE="redis://127.0.0.1:1?socket_timeout=abc"), ("gunicorn", "users"),
        "^AUGU_RATELIMIT_STORAGE: an option after the",
    ),
    "an unknown option of Redis": (
        set_to(AUGU_RATELIMIT_STORAGE="redis://127.0.0.1:1?unknown=1"), ("gunicorn", "users"),
        "^AUGU_RATELIMIT_STORAGE: an option after the",
    ),
    "a folder for metrics that cannot be": (
        set_to(PROMETHEUS_MULTIPROC_DIR="/dev/null/metrics"), ("gunicorn",), "^PROMETHEUS_MULTIPROC_DIR: "
    ),
    "a model that does not exist": (set_to(AUGU_MODEL="/nowhere"), MODEL, "^/nowhere is neither a folder"),
    "a wrong model.json": (wrong_model, MODEL, r"model\.json cannot be used: \w+: "),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "programs", "said"), BAD.values(), ids=BAD)
def test_a_bad_setting(tmp_path: Path, spoil: Callable[[Path], Environ], programs: tuple[str, ...], said: str) -> None:
    """A setting, folder or file that cannot be used is named in one line by each program that needs it."""
    environ = spoil(tmp_path)
    for program in programs:
        is_one_line(*outcome_here(program, environ), said)


SERVE = [str(BIN / "augu-api"), *directives(ROOT / "deploy" / "augu-api.service")["ExecStart"][0].split()[1:]]


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("PORT", "99999", "must be at most 65535"),
        ("PORT", "abc", "must be a whole number above 0"),
        ("WEB_CONCURRENCY", "abc", "must be a whole number above 0"),
    ],
)
def test_a_bad_number(tmp_path: Path, variable: str, text: str, said: str) -> None:
    """The command of the systemd unit says at once which number is bad; gunicorn alone would print a traceback."""
    env = os.environ | at(tmp_path, **{variable: text})
    done = subprocess.run(SERVE, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {variable}: {said}\n")


def test_an_empty_number(tmp_path: Path) -> None:
    """`augu-api serve` takes an empty variable as one that is not set, as compose.yaml does, and says what it makes."""
    port = free_port()
    env = os.environ | at(tmp_path, WEB_CONCURRENCY="", PORT="", TMPDIR=str(tmp_path))
    served = subprocess.Popen([*SERVE[:2], "--port", str(port)], env=env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: answers(port) or served.poll() is not None)
    served.terminate()
    _, said = served.communicate(timeout=60)
    assert served.returncode == 0
    assert said.startswith("Made a new secret: ")


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port that another program has is named, without a traceback."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [str(BIN / "gunicorn"), "--workers", "1"]
        env = os.environ | at(tmp_path, PORT=port, TMPDIR=str(tmp_path))
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Can't connect to ('0.0.0.0', {port})" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("augu-metrics-*")) == []


# --- what root may read: the programs run without the right to read everything

BOUND = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def unreadable(name: str, **environ: str) -> Callable[[Path], Environ]:
    """A file or folder of the data folder that nobody may read."""

    def spoil(folder: Path) -> Environ:
        path = folder / name
        if name == "weights":
            path.mkdir()
        else:
            path.write_text(SECRET)
        path.chmod(0)
        return at(folder, **environ)

    return spoil


def an_unreadable_export(folder: Path) -> Environ:
    for name in ("model.json", "model.onnx", "model.pth"):
        (folder / name).write_bytes((ROOT / "weights" / name).read_bytes())
    (folder / "model.onnx").chmod(0)
    return at(folder, AUGU_MODEL=str(folder), AUGU_ENGINE="onnx")


UNREADABLE: dict[str, tuple[Callable[[Path], Environ], tuple[str, ...], str]] = {
    "the secret": (unreadable("secret_key"), STORED, "^AUGU_DATA_DIR: .*Permission denied.*secret_key"),
    "the database": (unreadable("augu.db"), STORED, "^The database cannot be used: unable to open"),
    "the weights' folder": (
        unreadable("weights", AUGU_MODEL="mobilenet"), MODEL, r"Permission denied: .*/weights/.*\.json."
    ),
    "the export": (an_unreadable_export, MODEL, r"model\.onnx cannot be read: Permission denied\.$"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "programs", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(tmp_path: Path, spoil: Callable[[Path], Environ], programs: tuple[str, ...], said: str) -> None:
    """What may not be read is named in one line by each program that needs it."""
    refuses(programs, said, spoil(tmp_path), BOUND if os.geteuid() == 0 else [])


# --- a read-only file system

NO_COVERAGE = ["env", "--unset=COVERAGE_PROCESS_CONFIG"]  # which would be written to the disk
READ_ONLY = ["unshare", "--mount", *NO_COVERAGE, "sh", "-c", 'mount -o bind,remount,ro / && exec "$0" "$@"']


@pytest.fixture
def read_only() -> list[str]:
    """A prefix that runs a command where everything but /dev/shm is read-only."""
    probe = [*READ_ONLY, "sh", "-c", "! touch /tmp/augu-probe && touch /dev/shm/augu-probe && rm /dev/shm/augu-probe"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        missing("the right to mount")
    return READ_ONLY


def test_a_read_only_file_system(tmp_path: Path, read_only: list[str]) -> None:
    """Where the data folder cannot be made or written, each program says so in one line."""
    said = "^AUGU_DATA_DIR: .*Read-only file system"
    refuses(STORED, said, at(tmp_path / "data"), read_only)
    refuses(STORED, said, at(tmp_path), read_only)


def test_serving_from_a_read_only_file_system(serve: Serve, tmp_path: Path, read_only: list[str]) -> None:
    """With the secret and the database elsewhere, a server needs no disk: /dev/shm has what its workers share."""
    name = f"augu-{uuid.uuid4().hex}.db"
    environ = at(tmp_path / "data", AUGU_SECRET_KEY=SECRET, DATABASE_URL=f"sqlite:////dev/shm/{name}")
    server = serve(WEB_CONCURRENCY="2", AUGU_METRICS_TOKEN=SECRET, within=tuple(read_only), **environ)
    token = server.run("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL").strip()
    assert call(server.port, OBJECTS, photo("coffee"), token).status == 200
    assert b"augu_model_info{" in call(server.port, "/metrics", token=SECRET).body
    server.stop()
    assert not (tmp_path / "data").exists()
    for left in Path("/dev/shm").glob(f"{name}*"):
        left.unlink()
