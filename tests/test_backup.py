"""`augu-api backup` and `augu-api restore`, between both kinds of database."""

import gzip
import json
import os
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, insert
from sqlalchemy.orm import Session

from augu_api.config import Settings
from augu_api.flags import Flag
from augu_api.operating.cli import main
from augu_api.store import accounts, database
from augu_api.store.archive import MAX_LINE, BackupError
from augu_api.store.backup import alone, check, snapshot
from augu_api.store.models import Count, User
from tests.helpers import BIN, MakeApp, bearer, missing, no_file_beyond, wait_until
from tests.servers import Serve, Server, add, call

SECRET, OTHER = "the secret that signs the tokens", "another secret of 32 characters."
HEADER: dict[str, Any] = {"revision": "0001", "made_at": "2026-11-27 08:30:00+00:00", "secrets": [SECRET]}
HEADER |= {"format": "augu-api backup", "version": 1}
ALICE = {"id": 2**63 - 1, "name": "alice", "flags": 133, "coefficient": 0.1 + 0.2, "issued_at": 1, "banned_until": None}
COUNT = {"key": "requests/1/48", "count": 3, "expires_at": 1795792689.304}


def run(*command: object, input: bytes = b"", **env: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in command], env=env, input=input)


def done(*command: object, **options: Any) -> Result:
    result = run(*command, **options)
    assert result.exit_code == 0, result.output
    return result


def fails(message: str, *command: object, **options: Any) -> str:
    """The command fails with one line that has this text; the line."""
    result = run(*command, **options)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    return str(line)


def packed(*lines: object) -> bytes:
    """These lines as a backup, with the right end."""
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return gzip.compress(text + json.dumps({"sha256": sha256(text).hexdigest()}).encode() + b"\n")


def lines_of(backup: bytes) -> list[Any]:
    return [json.loads(line) for line in gzip.decompress(backup).splitlines()]


def rows_of(engine: Engine) -> list[Any]:
    """All rows of a database."""
    with Session(engine) as session:
        tables = (User, Count)
        return [row for table in tables for row in session.execute(table.__table__.select()).all()]


def rows_at(url: str) -> list[Any]:
    engine = database.connect(url)
    try:
        return rows_of(engine)
    finally:
        engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a backup that is still to be made."""
    return tmp_path / "augu.backup"


@pytest.fixture
def small(file: Path) -> Path:
    """A backup with one user and one count."""
    file.write_bytes(packed(HEADER, ["counts", COUNT], ["users", ALICE]))
    return file


@pytest.fixture
def filled(engine: Engine) -> list[Any]:
    """The rows of a database with users and counts of every kind."""
    with Session(engine) as session, session.begin():
        accounts.create(session, "alice", id=2**63 - 1, coefficient=0.1 + 0.2, flags=Flag.TEXT_QUALITY)
        session.add(User(id=1, name="Ünï", flags=Flag.BANNED, issued_at=2**62, banned_until=1e9 / 3))
        session.add(Count(**COUNT))
    return rows_of(engine)


# --- what is restored is what was saved


@pytest.mark.parametrize("way", ["to SQLite", "from SQLite", "replaced"])
def test_every_row_is_restored(
    filled: list[Any], engine: Engine, database_url: str, tmp_path: Path, file: Path, way: str
) -> None:
    """Between databases of either kind, every value is the same afterwards, and the tables can be used."""
    other = f"sqlite:///{tmp_path / 'other.db'}"
    steps = {"to SQLite": [database_url, other], "from SQLite": [database_url, other, database_url]}
    engine.dispose()
    for source, target in zip(steps.get(way, [database_url] * 2), steps.get(way, [database_url] * 2)[1:], strict=False):
        done("backup", file, "--overwrite", DATABASE_URL=source, AUGU_SECRET_KEY=SECRET)
        result = done("restore", file, "--replace", DATABASE_URL=target, AUGU_SECRET_KEY=SECRET)
        assert result.stderr.startswith("Restored 2 users and 1 count, and the secret, as saved at 2")
        assert rows_at(target) == filled
    done("users", "add", "bob", DATABASE_URL=target, AUGU_SECRET_KEY=SECRET)


def test_the_file_is_readable(small: Path, tmp_path: Path, file: Path) -> None:
    """A backup is JSON packed with gzip, as docs/operating.md says, and the same after a restore."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    done("restore", small, **env)
    again = tmp_path / "again"
    done("backup", again, **env)
    (first, *rows, end), (was, *were, _) = lines_of(again.read_bytes()), lines_of(small.read_bytes())
    assert rows == were
    assert first | {"made_at": was["made_at"]} == was
    assert end.keys() == {"sha256"}
    text = gzip.decompress(again.read_bytes())
    assert end["sha256"] == sha256(text[: text.rindex(b"{")]).hexdigest()


def test_streams(small: Path, tmp_path: Path) -> None:
    """`-` is standard output and standard input; a pipe works like a file."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    done("restore", "-", input=small.read_bytes(), **env)
    saved = done("backup", "-", **env)
    assert lines_of(saved.stdout_bytes)[1:-1] == lines_of(small.read_bytes())[1:-1]
    assert saved.stderr == "Saved 1 user and 1 count, and the secret.\n"
    script = f"{BIN}/augu-api restore --replace <(cat {small})"
    subprocess.run(["bash", "-c", script], env=os.environ | env, check=True, capture_output=True)


def test_many_rows(tmp_path: Path, file: Path) -> None:
    """With many users, both commands say that they are at work."""
    env = {"DATABASE_URL": f"sqlite:///{tmp_path / 'augu.db'}", "AUGU_SECRET_KEY": SECRET}
    engine = database.connect_upgraded(env["DATABASE_URL"])
    with engine.begin() as connection:
        many = [ALICE | {"id": number, "name": f"user{number}"} for number in range(1, 10_001)]
        connection.execute(insert(User), many)
    engine.dispose()
    assert "Backing up\n" in done("backup", file, **env).stderr
    assert "Restoring\n" in done("restore", file, "--replace", **env).stderr
    assert len(rows_at(env["DATABASE_URL"])) == 10_000


# --- while the service runs


@contextmanager
def busy(server: Server, token: str) -> Iterator[list[int]]:
    """Requests are counted, and users added, each with a count; yields the statuses of the replies."""
    statuses: list[int] = []
    stopped = threading.Event()

    def write() -> None:
        engine = database.connect(Settings.from_env(server.env).database_url)
        while not stopped.is_set():
            statuses.append(call(server.port, "/session", token=token).status)
            with Session(engine) as session, session.begin():
                accounts.create(session, f"new{len(statuses)}")
                session.add(Count(key=f"new{len(statuses)}", count=1, expires_at=0.0))
            stopped.wait(0.01)
        engine.dispose()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_until(lambda: len(statuses) > 2)
        yield statuses
    finally:
        stopped.set()
        thread.join()


def new_ones(file: Path, table: str, column: str) -> set[str]:
    rows = lines_of(file.read_bytes())[1:-1]
    return {row[column] for name, row in rows if name == table and row[column].startswith("new")}


def test_a_snapshot(filled: list[Any], engine: Engine, database_url: str) -> None:
    """What is written while a backup is made is not in it, and does not wait."""
    with snapshot(database_url) as found:
        with Session(engine) as session, session.begin():
            accounts.create(session, "new")
            session.add(Count(key="new", count=1, expires_at=0.0))
        names = sorted(str(row.get("name", row.get("key"))) for _, row in found.rows)
    assert names == ["alice", COUNT["key"], "Ünï"]
    assert len(rows_of(engine)) == len(filled) + 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_while_a_service_writes(
    kind: str, serve: Serve, request: pytest.FixtureRequest, tmp_path: Path, file: Path, make_app: MakeApp
) -> None:
    """A backup of a service that writes is consistent; it is not restored before the service has stopped.

    Then users and counts are as they were, and a token made before the backup works.
    """
    url = request.getfixturevalue("postgres") if kind == "postgresql" else ""
    server = serve(DATABASE_URL=url)
    env = {"AUGU_DATA_DIR": server.env["AUGU_DATA_DIR"], "DATABASE_URL": url}
    token = add(server, coefficient=1000)
    with busy(server, token) as statuses:
        for _ in range(3):
            done("backup", file, "--overwrite", **env)
            assert new_ones(file, "users", "name") == new_ones(file, "counts", "key") != set()
        where = "127.0.0.1: stop the service on every host" if url else "another process has the database open"
        fails(where, "restore", file, "--replace", **env)
    assert set(statuses) == {200}
    fails(where, "restore", file, "--replace", **env)  # it does not depend on requests
    server.stop()
    fails("the database has users already", "restore", file, **env)
    done("restore", file, "--replace", **env)
    again = tmp_path / "again"
    done("backup", again, **env)
    assert lines_of(again.read_bytes())[1:-1] == lines_of(file.read_bytes())[1:-1]
    reply = make_app(Settings.from_env(env)).test_client().get("/session", headers=bearer(f"Bearer {token}"))
    assert reply.status_code == 200


def test_a_service_that_starts_waits(filled: list[Any], engine: Engine, database_url: str) -> None:
    """Who connects during a restore waits for its end."""
    engine.dispose()
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(rows_at(database_url)))
    with alone(database_url) as connection:
        thread.start()
        thread.join(0.3)
        assert seen == []
        connection.execute(delete(User))
        connection.commit()
    thread.join(60)
    assert seen == [row for row in filled if len(row) == 3]


# --- everything or nothing


TWICE = packed(HEADER, ["counts", COUNT], ["users", ALICE], ["users", ALICE | {"id": 1}])


def test_a_failure_changes_nothing(
    filled: list[Any], engine: Engine, database_url: str, tmp_path: Path, file: Path
) -> None:
    """A restore that fails in the middle leaves users, counts and secret as they were."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": database_url}
    done("users", "list", **env)
    before = (tmp_path / "data" / "secret_key").read_text()
    engine.dispose()
    file.write_bytes(TWICE)
    fails("it has a row twice", "restore", file, "--replace", **env)
    assert rows_at(database_url) == filled
    assert [path.read_text() for path in (tmp_path / "data").glob("*secret*")] == [before]
    done("users", "add", "bob", **env)


def test_a_full_disk(tmp_path: Path, file: Path) -> None:
    """A backup that does not fit on its disk is not there, and nothing is left of it."""
    secrets = ",".join(os.urandom(6_000).hex() for _ in range(10))
    env = {"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_SECRET_KEYS": secrets}
    done("users", "list", **env)
    with no_file_beyond(2**15):
        fails(f"{file}: File too large", "backup", file, **env)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    full = subprocess.run(
        ["sh", "-c", f"{BIN}/augu-api backup - > /dev/full"], env=os.environ | env, capture_output=True, check=False
    )
    assert (full.returncode, full.stderr) == (1, b"Error: -: No space left on device\n")
    done("backup", file, **env)
    assert "=" + secrets in done("restore", "--print-secret", file).stdout


# --- where a backup is written


def test_only_the_owner_reads_it(small: Path, tmp_path: Path) -> None:
    """A backup, and the secret that is restored, have the mode 0600 whatever the umask is."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    before = os.umask(0)
    try:
        done("restore", small, **env)
        done("backup", tmp_path / "again", **env)
    finally:
        os.umask(before)
    made = [tmp_path / "again", *(tmp_path / "data").iterdir()]
    assert {path.name: path.stat().st_mode & 0o777 for path in made} == dict.fromkeys(
        ("again", "augu.db", "secret_key"), 0o600
    )


def test_no_file_is_lost(small: Path, tmp_path: Path) -> None:
    """Only a backup is overwritten, and only if that is asked for."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    done("restore", small, **env)
    before, photo = small.read_bytes(), tmp_path / "photo"
    photo.write_bytes(b"a photo")
    fails(f"{small}: this file exists already", "backup", small, **env)
    assert small.read_bytes() == before
    fails(f"{photo}: this is not a backup", "backup", "--overwrite", photo, **env)
    fails("augu.db: this is not a backup", "backup", "--overwrite", tmp_path / "data" / "augu.db", **env)
    assert photo.read_bytes() == b"a photo"
    fails(f"{tmp_path}: this is not a file", "backup", "--overwrite", tmp_path, **env)
    fails("/dev/null: this is not a file", "backup", "--overwrite", "/dev/null", **env)
    fails("/nowhere/a: No such file or directory", "backup", "/nowhere/a", **env)
    done("backup", "--overwrite", small, **env)
    assert lines_of(small.read_bytes())[0]["made_at"] != HEADER["made_at"]


def test_nothing_to_save(tmp_path: Path, file: Path) -> None:
    """With the wrong environment, `backup` says so; it makes no database, no secret and no file."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    fails("There is no secret in", "backup", file, **env)
    fails("unable to open database file", "backup", file, AUGU_SECRET_KEY=SECRET, **env)
    assert list(tmp_path.iterdir()) == []
    database.connect(f"sqlite:///{file}").dispose()
    fails("the database has no tables", "backup", "-", AUGU_SECRET_KEY=SECRET, DATABASE_URL=f"sqlite:///{file}")


def test_counts_in_redis(small: Path, tmp_path: Path, file: Path) -> None:
    """The counts in Redis are not saved, and `backup` says so."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_RATELIMIT_STORAGE": "redis://localhost"}
    done("restore", small, **env)
    assert "The counts in Redis are not part of a backup.\n" in done("backup", "-", **env).stderr


# --- the secret


def test_another_secret(small: Path, tmp_path: Path) -> None:
    """A secret whose tokens would stop working is not lost by accident."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    done("users", "list", **env)
    kept = (tmp_path / "data" / "secret_key").read_text()
    fails("secret_key has another secret", "restore", small, **env)
    fails("the secret that is set is not the backup's", "restore", small, "--replace", AUGU_SECRET_KEY=OTHER, **env)
    assert "without the secret" in done("restore", small, "--keep-secret", **env).stderr
    assert (tmp_path / "data" / "secret_key").read_text() == kept
    done("restore", small, "--replace", **env)
    assert (tmp_path / "data" / "secret_key").read_text() == SECRET


def test_a_secret_that_is_set(small: Path, tmp_path: Path, file: Path) -> None:
    """A secret in the environment must be the backup's; `--print-secret` prints it for an environment file."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_ENV": "production"}
    fails("AUGU_SECRET_KEY: must be set in production", "restore", small, **env)
    assert done("restore", small, "--print-secret", **env).stdout == f"AUGU_SECRET_KEY='{SECRET}'\n"
    done("restore", small, AUGU_SECRET_KEYS=f"{OTHER},{SECRET}", **env)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["augu.db"]


def test_several_secrets(file: Path, tmp_path: Path) -> None:
    """Several secrets do not fit into the data folder's file."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    file.write_bytes(packed(HEADER | {"secrets": [SECRET, OTHER]}, ["users", ALICE]))
    fails("must be set in the environment", "restore", file, **env)
    [line] = done("restore", file, "--print-secret").stdout.splitlines()
    printed = subprocess.run(["sh", "-c", f'{line}; printf %s "$AUGU_SECRET_KEYS"'], stdout=subprocess.PIPE, check=True)
    done("restore", file, AUGU_SECRET_KEYS=printed.stdout.decode(), **env)


def test_another_user(small: Path, tmp_path: Path) -> None:
    """The service could not read what another user, such as root, would restore for it."""
    if os.geteuid() != 0:
        missing("root's right to give files away")
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 12345, -1)
    fails("another user owns", "restore", small, AUGU_DATA_DIR=str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


# --- files that are not backups

GOOD = packed(HEADER, ["users", ALICE], ["counts", COUNT])
OF_ANOTHER = "this is not a backup that augu-api made"
NO_ROW = "a row that fits no table"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", OF_ANOTHER),
    "text": (b"users\n", OF_ANOTHER),
    "another gzip": (gzip.compress(b"users\n"), OF_ANOTHER),
    "another gzip of JSON": (packed({"users": []}), OF_ANOTHER),
    "nothing, packed": (gzip.compress(b""), "it has no lines"),
    "a line without end": (gzip.compress(b"0" * MAX_LINE * 4), "too long"),
    "endless nesting": (gzip.compress(b"[" * 100_000 + b"\n"), OF_ANOTHER),
    "an endless number": (gzip.compress(b"1" * 100_000 + b"\n"), OF_ANOTHER),
    "not UTF-8": (gzip.compress(b'"\xff"\n'), OF_ANOTHER),
    "truncated": (GOOD[:-30], "its end is missing"),
    "truncated after the header": (gzip.compress(json.dumps(HEADER).encode() + b"\n"), "its end is missing"),
    "a changed byte": (GOOD[:-6] + bytes([GOOD[-6] ^ 1]) + GOOD[-5:], "CRC check failed"),
    "a missing row": (
        gzip.compress(
            b"".join(
                gzip.decompress(GOOD).splitlines(keepends=True)[:1]
                + gzip.decompress(GOOD).splitlines(keepends=True)[2:]
            )
        ),
        "its lines do not match their sha256",
    ),
    "two backups": (GOOD + GOOD, "something follows its end"),
    "a newer format": (packed(HEADER | {"version": 2}), "made by a newer release"),
    "newer tables": (packed(HEADER | {"revision": "9999"}), "the tables are of a newer release"),
    "a name for a revision": (packed(HEADER | {"revision": "head"}), "the tables are of a newer release"),
    "no secret": (packed(HEADER | {"secrets": []}), "its header cannot be used"),
    "a short secret": (packed(HEADER | {"secrets": ["short"]}), "its header cannot be used"),
    "no list of secrets": (packed(HEADER | {"secrets": 1}), "its header cannot be used"),
    "half a character": (packed(HEADER | {"secrets": [SECRET + "\ud800"]}), "its header cannot be used"),
    "no time": (packed(HEADER | {"made_at": "\33[2J"}), "its header cannot be used"),
    "more in the header": (packed(HEADER | {"path": "/etc/passwd"}), "its header cannot be used"),
    "another table": (packed(HEADER, ["sqlite_master", {}]), NO_ROW),
    "the revision's table": (packed(HEADER, ["alembic_version", {"version_num": "9"}]), NO_ROW),
    "no row": (packed(HEADER, ["users"]), "a line that is no row"),
    "another column": (packed(HEADER, ["users", ALICE | {"x": 1}]), NO_ROW),
    "a missing column": (packed(HEADER, ["users", {"id": 1}]), NO_ROW),
    "no id": (packed(HEADER, ["users", ALICE | {"id": None}]), NO_ROW),
    "a text as id": (packed(HEADER, ["users", ALICE | {"id": "1"}]), NO_ROW),
    "truth as id": (packed(HEADER, ["users", ALICE | {"id": True}]), NO_ROW),
    "a large id": (packed(HEADER, ["users", ALICE | {"id": 2**63}]), NO_ROW),
    "large flags": (packed(HEADER, ["users", ALICE | {"flags": 2**31}]), NO_ROW),
    "no number": (packed(HEADER, ["users", ALICE | {"coefficient": float("nan")}]), NO_ROW),
    "a long name": (packed(HEADER, ["users", ALICE | {"name": "a" * 65}]), NO_ROW),
    "a control character": (packed(HEADER, ["users", ALICE | {"name": "a\0"}]), NO_ROW),
    "half a character in a name": (packed(HEADER, ["users", ALICE | {"name": "\ud800"}]), NO_ROW),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(file: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is no complete backup is refused in one line that names it, before anything is touched."""
    file.write_bytes(content)
    line = fails(message, "restore", file, "--replace", AUGU_DATA_DIR=str(tmp_path / "data"))
    assert line.startswith(f"Error: {file}: ")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_no_file(tmp_path: Path) -> None:
    """A file that cannot be read is named with the reason."""
    fails(f"{tmp_path / 'a'}: No such file or directory", "restore", tmp_path / "a")
    fails(f"{tmp_path}: Is a directory", "restore", tmp_path)


def test_a_bomb_takes_little_memory() -> None:
    """What a small file unpacks to is not kept: one long line, or many."""
    row = json.dumps(["counts", COUNT]).encode() + b"\n"
    head = json.dumps(HEADER).encode() + b"\n"
    for bomb in (gzip.compress(b"0" * 2**23, 1), gzip.compress(head + row * (2**20 // len(row)), 1)):
        tracemalloc.start()
        with pytest.raises(BackupError):
            check(BytesIO(bomb))
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
        tracemalloc.stop()


@given(st.data())
@hypothesis_settings(max_examples=25, deadline=None)
def test_damaged_files(data: st.DataObject) -> None:
    """Whatever is changed in a file or in its lines, it is refused as a whole."""
    text = data.draw(st.sampled_from([GOOD, gzip.decompress(GOOD)]))
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.binary(max_size=3)) + text[place + data.draw(st.integers(0, 3)) :]
    try:
        check(BytesIO(changed if text is GOOD else gzip.compress(changed)))
    except BackupError:
        return
    assert lines_of(changed if text is GOOD else gzip.compress(changed)) == lines_of(GOOD)
