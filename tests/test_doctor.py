"""`augu-api doctor`: what it finds in a broken installation, and that it changes nothing and shows no secret."""

import json
import os
import re
import resource
import shutil
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from augu_api import memory
from augu_api.config import ROOT, Settings
from augu_api.detection import Detection
from augu_api.operating.cli import main
from augu_api.operating.doctor import Finding, State, serving, storage
from augu_api.store import accounts, database, migrate
from augu_api.store.quotas import REFUSALS_BEFORE_BAN, QuotaExceeded, Quotas
from tests.helpers import BIN, FakeDetector, free_port
from tests.servers import augu_api

Examine = Callable[..., Result]
Check = Callable[[Settings], Iterator[Finding]]
NOISE = Image.effect_noise((64, 48), 90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder, which does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def examine(folder: Path) -> Examine:
    """Run the command: `examine("--json", AUGU_QUEUE="1")`. Other settings in the environment are ignored."""
    clean = dict.fromkeys(name for name in os.environ if name.startswith("AUGU_"))
    return lambda *options, **env: CliRunner().invoke(
        main, ["doctor", *options], env=clean | {"AUGU_DATA_DIR": str(folder)} | env
    )


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a user and a database that is not open."""
    folder = tmp_path_factory.mktemp("installation")
    augu_api("users", "add", "alice", env=os.environ | {"AUGU_DATA_DIR": str(folder)})
    sqlite3.connect(folder / "augu.db").execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    return folder


@pytest.fixture
def used(folder: Path, installation: Path) -> Path:
    """A copy of the data folder of an installation with a user."""
    return Path(shutil.copytree(installation, folder))


def settings_of(folder: Path, **env: str) -> Settings:
    settings, wrong = Settings.examine({"AUGU_DATA_DIR": str(folder)} | env)
    assert not wrong
    return settings


def worst(check: Check, settings: Settings) -> Finding:
    """The worst finding of one check."""
    return max(check(settings), key=lambda finding: list(State).index(finding.state))


def states(result: Result) -> dict[str, str]:
    """The states of --json by check, the worst where a check has several."""
    order = ["ok", "warning", "problem"]
    found: dict[str, str] = {}
    for row in json.loads(result.stdout):
        found[row["check"]] = max(found.get(row["check"], "ok"), row["state"], key=order.index)
    return found


CHECKED = ["settings", "folders", "secret", "database", "counts", "clock", "keyless", "refused"]
CHECKED += ["weights", "export", "engine", "workers"]


# --- nothing is wrong


def test_a_new_installation(examine: Examine, folder: Path) -> None:
    """Before the first start nothing is wrong, and no check creates a folder, a database or a secret."""
    result = examine("--json")
    assert (result.exit_code, states(result)) == (0, dict.fromkeys(CHECKED, "ok"))
    assert not folder.exists()


def test_a_used_installation(examine: Examine, used: Path) -> None:
    """An existing installation is checked and not changed, and each finding is one line."""
    before = {path.name: path.read_bytes() for path in used.iterdir()}
    result = examine()
    assert result.exit_code == 0, result.output
    heading, _, *lines = result.stdout.splitlines()
    assert heading.split() == ["check", "state", "found"]
    assert {line.split()[1] for line in lines} == {"ok"}
    assert "onnx serves bundled and finds in example.png: stop sign, traffic light" in result.stdout
    assert {path.name: path.read_bytes() for path in used.iterdir()} == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_while_it_serves(kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
    """A database that is in use is checked without a finding and without a change, whether SQLite or PostgreSQL."""
    settings = settings_of(folder)
    if kind == "postgresql":
        settings = settings_of(folder, DATABASE_URL=request.getfixturevalue("postgres"))
    folder.mkdir()
    engine = database.connect(settings.database_url)
    migrate.upgrade(engine)
    with database.one_statement(engine).connect() as reader:
        for check in (storage.database, storage.clock):
            assert worst(check, settings).state == "ok"
        assert reader.scalar(text("SELECT count(*) FROM counts")) == 0
    engine.dispose()


def test_redis(folder: Path, redis: str) -> None:
    """A Redis that answers gives no finding."""
    assert worst(storage.counts, settings_of(folder, AUGU_RATELIMIT_STORAGE=redis)).state == "ok"


# --- something is wrong


def test_everything_wrong(examine: Examine, tmp_path: Path) -> None:
    """No problem hides another: each bad setting is named, checks that need it are skipped, and the others run."""
    bad = {"AUGU_QUEUE": "many", "DATABASE_URL": "mysql://x", "AUGU_ENV": "production", "AUGU_MODLE": "x"}
    result = examine("--json", **bad, AUGU_MODEL=str(tmp_path), AUGU_RATELIMIT_STORAGE="carrier-pigeon://x")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    said = [row["found"] for row in rows if row["check"] == "settings" and row["state"] == "problem"]
    named = ["AUGU_SECRET_KEY", "DATABASE_URL", "AUGU_RATELIMIT_STORAGE", "AUGU_QUEUE"]
    assert sorted(line.partition(":")[0] for line in said) == sorted(named)
    assert states(result) == {
        "settings": "problem", "folders": "ok", "secret": "warning", "database": "warning", "counts": "warning",
        "clock": "warning", "keyless": "warning", "refused": "warning", "model": "problem", "workers": "ok",
    }  # fmt: skip
    assert any(row["state"] == "warning" and "AUGU_MODLE" in row["found"] for row in rows)


def test_as_a_program(tmp_path: Path) -> None:
    """A problem means exit code 1, one line on standard output, and nothing on standard error."""
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path), "AUGU_QUEUE": "0"}
    done = subprocess.run([BIN / "augu-api", "doctor"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    [line] = [line for line in done.stdout.splitlines() if "problem" in line]
    assert "AUGU_QUEUE: must be a whole number above 0" in line


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o400, "ok"), (0o640, "warning"), (0o604, "problem")])
def test_mode_of_the_secret(used: Path, mode: int, state: str) -> None:
    """Only its owner may read the secret's file."""
    (used / "secret_key").chmod(mode)
    found = worst(storage.secret, settings_of(used))
    assert found.state == state
    assert ("chmod 600" in found.found) == (state != "ok")


def test_a_damaged_secret(used: Path) -> None:
    """A truncated secret's file is a problem, unless the secret is set in the environment."""
    (used / "secret_key").write_text("0123")
    assert worst(storage.secret, settings_of(used)).state == "problem"
    assert worst(storage.secret, settings_of(used, AUGU_SECRET_KEY="s" * 32)).state == "ok"


@pytest.mark.parametrize("name", ["AUGU_DATA_DIR", "PROMETHEUS_MULTIPROC_DIR"])
def test_folders(tmp_path: Path, name: str) -> None:
    """A folder that cannot exist is a problem, and the finding names its setting."""
    settings = settings_of(tmp_path, **{name: "/dev/null/folder"})
    found = worst(storage.folders, settings)
    assert (found.state, name in found.found) == ("problem", True)


@pytest.mark.parametrize(("mode", "state"), [(0o755, "ok"), (0o775, "ok"), (0o777, "problem"), (0o1777, "problem")])
def test_mode_of_the_data_folder(used: Path, mode: int, state: str) -> None:
    """A data folder in which every user can replace the secret and the database is a problem."""
    used.chmod(mode)
    found = worst(storage.folders, settings_of(used))
    assert (found.state, "chmod o-rwx" in found.found) == (state, state == "problem")
    assert stat.S_IMODE(used.stat().st_mode) == mode


def sql(statement: str) -> Callable[[Path], object]:
    """A function that changes the database of a folder."""

    def change(folder: Path) -> None:
        connection = sqlite3.connect(folder / "augu.db")
        with connection:
            connection.execute(statement)
        connection.close()

    return change


DATABASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "not a database": (lambda folder: (folder / "augu.db").write_bytes(b"no" * 999), "problem", "not a database"),
    "cut short": (lambda folder: os.truncate(folder / "augu.db", 5000), "problem", "restore a backup"),
    "a newer release's": (sql("UPDATE alembic_version SET version_num = '9999'"), "problem", "augu-api db downgrade"),
    "not brought up to date": (sql("DELETE FROM alembic_version"), "warning", "augu-api db upgrade"),
    "without a table": (sql("DROP TABLE counts"), "problem", "no such table"),
    "empty": (lambda folder: (folder / "augu.db").write_bytes(b""), "warning", "augu-api db upgrade"),
}


@pytest.mark.parametrize(("change", "state", "said"), DATABASES.values(), ids=DATABASES)
def test_databases(used: Path, change: Callable[[Path], object], state: str, said: str) -> None:
    """Damage to a database file is found, and the file is not changed."""
    change(used)
    content = (used / "augu.db").read_bytes()
    found = worst(storage.database, settings_of(used))
    assert found.state == state, found
    assert said in found.found
    assert (used / "augu.db").read_bytes() == content


def test_a_locked_database(used: Path) -> None:
    """A transaction that never ends is found after the time that the URL or the default sets."""
    other = sqlite3.connect(used / "augu.db")
    other.execute("BEGIN IMMEDIATE")
    found = worst(storage.database, settings_of(used, DATABASE_URL=f"sqlite:///{used / 'augu.db'}?timeout=0.1"))
    other.close()
    assert (found.state, "locked" in found.found) == ("problem", True)


def test_a_database_in_no_folder(tmp_path: Path) -> None:
    """A database file that the first start could not create is a problem."""
    settings = settings_of(tmp_path, DATABASE_URL="sqlite:////dev/null/augu.db")
    assert worst(storage.database, settings).state == "problem"


def test_postgresql(postgres: str, tmp_path: Path) -> None:
    """PostgreSQL without tables is a warning; read-only, without the database or unreachable it is a problem."""
    settings = settings_of(tmp_path, DATABASE_URL=postgres)
    assert worst(storage.database, settings).state == "warning"
    engine = database.connect(settings.database_url)
    migrate.upgrade(engine)
    engine.dispose()
    assert worst(storage.database, settings).state == "ok"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("ALTER DATABASE augu SET default_transaction_read_only = on")
    assert "read-only transaction" in worst(storage.database, settings).found
    nowhere = settings_of(tmp_path, DATABASE_URL=f"{postgres}_nowhere")
    gone = settings_of(tmp_path, DATABASE_URL=f"postgresql://augu@127.0.0.1:{free_port()}/augu")
    assert "does not exist" in worst(storage.database, nowhere).found
    assert "refused" in worst(storage.database, gone).found
    assert {worst(storage.database, settings).state for settings in (settings, nowhere, gone)} == {"problem"}
    assert worst(storage.clock, gone).state == "ok"


def test_the_clock(used: Path, postgres: str) -> None:
    """A clock that is years behind, behind a token, or different from the database server's is found."""
    settings = settings_of(used)
    assert "1970" in next(storage.clock(settings, lambda: 0.0)).found
    sql(f"UPDATE users SET issued_at = {(time.time() + 3600) * 1000:.0f}")(used)
    found = worst(storage.clock, settings)
    assert (found.state, "behind the newest token" in found.found) == ("problem", True)
    settings = settings_of(used, DATABASE_URL=postgres)
    engine = create_engine(settings.database_url)
    migrate.upgrade(engine)
    engine.dispose()
    assert worst(storage.clock, settings).state == "ok"
    [found] = storage.clock(settings, lambda: time.time() - 100)
    assert (found.state, "differs by 100 seconds" in found.found) == ("warning", True)


def test_no_redis(folder: Path) -> None:
    """A Redis that does not answer is a problem."""
    url = f"redis://127.0.0.1:{free_port()}"
    found = worst(storage.counts, settings_of(folder, AUGU_RATELIMIT_STORAGE=url))
    assert (found.state, "refused" in found.found) == ("problem", True)


# --- the model


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the model's folder."""
    return Path(shutil.copytree(ROOT / "weights", tmp_path / "model"))


def damage(file: str) -> Callable[[Path], object]:
    return lambda model: (model / file).write_bytes((model / file).read_bytes()[:-1])


def other_weights(model: Path) -> None:
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(facts | {"sha256": "0" * 64}))


MODELS: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "whole": (lambda model: None, {"weights": "ok", "export": "ok", "engine": "ok"}),
    "weights damaged": (damage("model.pth"), {"weights": "warning", "export": "ok", "engine": "ok"}),
    "weights gone": (
        lambda model: (model / "model.pth").unlink(),
        {"weights": "warning", "export": "ok", "engine": "ok"},
    ),
    "export damaged": (damage("model.onnx"), {"weights": "ok", "export": "problem", "engine": "problem"}),
    "export gone": (
        lambda model: (model / "model.onnx").unlink(),
        {"weights": "ok", "export": "problem", "engine": "problem"},
    ),
    "another's": (other_weights, {"weights": "warning", "export": "problem", "engine": "problem"}),
    "no facts": (lambda model: (model / "model.json").unlink(), {"model": "problem"}),
}


@pytest.mark.parametrize(("change", "expected"), MODELS.values(), ids=MODELS)
def test_models(tmp_path: Path, copied: Path, change: Callable[[Path], object], expected: dict[str, str]) -> None:
    """The weights must match their sha256 and the export the weights, and the engine is tried."""
    change(copied)
    settings = settings_of(tmp_path, AUGU_MODEL=str(copied), AUGU_ENGINE="onnx")
    assert {finding.check: finding.state for finding in serving.model(settings)} == expected


def test_the_engine_in_reserve(tmp_path: Path, copied: Path) -> None:
    """Where `auto` falls back to torchvision, a missing export is a warning, and the engine is named."""
    pytest.importorskip("torchvision")
    (copied / "model.onnx").unlink()
    found = {f.check: f for f in serving.model(settings_of(tmp_path, AUGU_MODEL=str(copied)))}
    assert [found[check].state for check in ("weights", "export", "engine")] == ["ok", "warning", "ok"]
    assert "torchvision serves" in found["engine"].found


def test_a_model_that_finds_nothing() -> None:
    """A model with COCO's categories that finds nothing in the example photo is a problem; another model may do so."""
    detector = FakeDetector(found=[Detection("cat", (0, 0, 9, 9), 0.3)], facts={"model": "bundled", "engine": "onnx"})
    assert serving.try_detector(detector).state == "problem"
    detector.facts = {"model": "models/coins", "engine": "onnx"}
    assert serving.try_detector(detector).state == "ok"


# --- the workers


@pytest.mark.parametrize(
    ("workers", "cpu", "memory", "state", "fix"),
    [
        ("1", "max 100000", "max", "ok", ""),
        ("1", "50000 100000", "max", "ok", ""),
        ("2", "100000 100000", "max", "warning", "set WEB_CONCURRENCY to 1"),
        ("1000", "max 100000", "max", "problem", "WEB_CONCURRENCY="),
        (
            "2",
            "max 100000",
            "1000000",
            "problem",
            "give it more, and set WEB_CONCURRENCY=1 and AUGU_MAX_PIXELS=1000000",
        ),
        ("1000", "nonsense", "", "problem", "WEB_CONCURRENCY="),
    ],
)
def test_workers(tmp_path: Path, workers: str, cpu: str, memory: str, state: str, fix: str) -> None:
    """Workers must fit the cores and the memory of the machine, or of the process's cgroup if it has less."""
    group = tmp_path / "a.slice" / "augu.service"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(f"{cpu}\n")
    (group / "memory.max").write_text(f"{memory}\n")
    (tmp_path / "own").write_text("0::/a.slice/augu.service\n")
    settings = settings_of(tmp_path, WEB_CONCURRENCY=workers, AUGU_MAX_PIXELS="25000000")
    [found] = serving.workers(settings, tmp_path / "own", tmp_path)
    assert found.state == state, found
    assert fix in found.found


def test_a_photo_of_the_most_pixels_counts(tmp_path: Path) -> None:
    """What fits with few pixels may not fit with many, and the finding names settings that do."""
    (tmp_path / "own").write_text("0::/\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    taken = memory.needed(1, 0, max(peak, memory.WORKER))
    (tmp_path / "memory.max").write_text(str(taken + 40_000_000))
    for pixels, state in ("2000000", "ok"), ("25000000", "problem"):
        settings = settings_of(tmp_path, WEB_CONCURRENCY="1", AUGU_MAX_PIXELS=pixels)
        [found] = serving.workers(settings, tmp_path / "own", tmp_path)
        assert found.state == state, found
    assert re.search(r"set WEB_CONCURRENCY=1 and AUGU_MAX_PIXELS=\d000000$", found.found)


# --- secrets

PASSWORD = "hunter2-of-the-database"
SECRETS = {"AUGU_SECRET_KEY": "k" * 40, "AUGU_METRICS_TOKEN": "m" * 40}


@pytest.mark.parametrize("password", [PASSWORD, f"a%40{PASSWORD}", f"a#{PASSWORD}"])
@pytest.mark.parametrize("there", [True, False])
def test_no_secret_is_shown(
    examine: Examine, redis: str, postgres: str, used: Path, there: bool, password: str
) -> None:
    """No secret, token or database password is shown, whether it is right, wrong or for an unreachable server."""
    database, storage = (url.rpartition("@")[2].rpartition("://")[2] for url in (postgres, redis))
    if not there:
        database = storage = f"127.0.0.1:{free_port()}"
    urls = {
        "DATABASE_URL": f"postgresql://augu:{password}@{database}",
        "AUGU_RATELIMIT_STORAGE": f"redis://:{password.replace('#', '%23')}@{storage}",
    }
    bad = {name: value[:20] for name, value in SECRETS.items()}
    hidden = [(used / "secret_key").read_text(), PASSWORD, *SECRETS.values(), *bad.values()]
    for secrets in ({}, SECRETS, bad):
        output = examine(**urls, **secrets, AUGU_MODEL="none").output
        assert "AUGU_RATELIMIT_STORAGE" in output
        assert [text for text in hidden if text in output] == []


def test_no_control_characters(examine: Examine) -> None:
    """The value of a variable cannot send the terminal control characters."""
    result = examine(AUGU_MODEL="\x1b]0;owned\x07", **{"AUGU_\x1b[2J": "x"})
    assert result.exit_code == 1
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]


# --- callers


def says(result: Result, check: str) -> list[tuple[str, str]]:
    """What a check found, with its state."""
    return [(one["state"], one["found"]) for one in json.loads(result.stdout) if one["check"] == check]


KEYLESS = {"AUGU_DEEPSTACK": "1", "AUGU_DEEPSTACK_KEYLESS": "alice@192.168.1.0/24"}


def test_requests_without_a_token_are_said_loudly(examine: Examine, used: Path) -> None:
    """Doctor names who acts without a token from where, the proxy that has to be believed, and a user that is amiss."""
    assert says(examine("--json"), "keyless") == [("ok", "every request needs a token")]
    everyone, unreachable, user = says(examine("--json", **KEYLESS), "keyless")
    assert everyone[0] == "warning"
    assert "EVERYONE in 192.168.1.0/24 acts as the user alice" in everyone[1]
    assert "set AUGU_PROXIES=127.0.0.1" in unreachable[1]
    assert user == ("problem", "the user alice lacks a flag: `augu-api users grant alice IMAGES_OBJECTS EXPERIMENTAL`")
    augu_api("users", "grant", "alice", "IMAGES_OBJECTS", "EXPERIMENTAL", env=os.environ | {"AUGU_DATA_DIR": str(used)})
    _, user = says(examine("--json", **KEYLESS, AUGU_PROXIES="127.0.0.1"), "keyless")
    assert user == ("ok", "the user alice exists and has the flags")
    _, user = says(examine("--json", **KEYLESS, PORT="8000"), "keyless")
    assert user[0] == "ok"
    here = KEYLESS | {"AUGU_DEEPSTACK_KEYLESS": "bob@127.0.0.0/8", "PORT": "8000"}
    _, local, user = says(examine("--json", **here), "keyless")
    assert "this machine is in these networks" in local[1]
    assert user[0] == "problem"
    assert "there is no user bob" in user[1]
    [unused] = says(examine("--json", **KEYLESS | {"AUGU_DEEPSTACK": "0"}), "keyless")
    assert "has no effect" in unused[1]


def test_who_is_refused_is_said(examine: Examine, used: Path) -> None:
    """Doctor names the users who are over their quota, or banned for it, and the command that helps."""
    assert says(examine("--json"), "refused") == [("ok", "no user is over the quota")]
    with database.open_existing(f"sqlite:///{used / 'augu.db'}") as engine:
        quotas = Quotas(engine, "", 10)
        with Session(engine) as session:
            alice = accounts.find(session, "alice")
            session.expunge_all()
        for _ in range(alice.cap + 3):
            with suppress(QuotaExceeded):
                quotas.count(alice)
        [refused] = says(examine("--json"), "refused")
        assert refused[0] == "warning"
        fix = "`augu-api users quota alice 2` sets a larger quota, or have it call less often"
        assert refused[1] == f"alice has got 3 replies of 429 of 48 requests a minute: {fix}"
        for _ in range(REFUSALS_BEFORE_BAN):
            with suppress(QuotaExceeded):
                quotas.count(alice)
    [banned] = says(examine("--json"), "refused")
    assert banned[0] == "warning"
    assert re.match("alice is banned for another [0-9]+ seconds: `augu-api users quota alice 2`", banned[1])
