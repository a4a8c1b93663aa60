"""Updating from the oldest release: its database, its tokens and its settings."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select
from sqlalchemy.orm import Session

from augu_api import tokens
from augu_api.config import ROOT, Settings, SettingsError
from augu_api.operating.cli import main
from augu_api.store import accounts, database
from augu_api.store.models import Count
from tests.helpers import OBJECTS, FakeDetector, MakeApp, bearer

DUMP = (ROOT / "tests" / "oldest_release.sql").read_text()
SECRET = "old" * 12
ALICE = "eyJhbGciOiJIUzI1NiJ9.NDI6MTc5NTc5MzYyNTMxOQ.3zM902M3Ia2GxN4BzcHHkvzNYE6he8Md1f_-ySsoWk8"
MALLORY = "eyJhbGciOiJIUzI1NiJ9.NDY6MTc5NTc5MzY1MjUxMg.bOgWnj30AHy1GL1ST_ahcsbaKVz08oAzXEp2qPVqksU"
"""The tokens that the oldest release printed for the users of the dump."""
Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of the oldest release."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)  # as that release made it
    connection = sqlite3.connect(folder / "augu.db")
    connection.executescript(DUMP)
    connection.close()
    return folder


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a command on that folder."""
    env = {"AUGU_DATA_DIR": str(folder), "AUGU_SECRET_KEY": SECRET}
    return lambda *command: CliRunner().invoke(main, [*command], env=env)


def test_the_database(folder: Path, make_app: MakeApp, detector: FakeDetector, png: bytes) -> None:
    """The service has the users of the old database: tokens, flags, quotas and bans are as they were."""
    settings = Settings.from_env({"AUGU_DATA_DIR": str(folder), "AUGU_SECRET_KEY": SECRET})
    client = make_app(settings, detector).test_client()
    statuses = [
        client.post(OBJECTS, data=png, content_type="image/png", headers=bearer(f"Bearer {token}")).status_code
        for token in [ALICE] * 7 + [MALLORY]
    ]
    assert statuses == [200] * 6 + [429, 403]
    assert (folder / "augu.db").stat().st_mode & 0o007 == 0


def test_the_tables(database_url: str) -> None:
    """SQLite's and PostgreSQL's tables get the newest revision; users, tokens and counts stay."""
    old = database.connect(database_url)
    with old.begin() as connection:
        for statement in DUMP.replace("BEGIN TRANSACTION;", "").replace("COMMIT;", "").split(";\n"):
            connection.exec_driver_sql(statement)
    engine = database.connect_upgraded(database_url)
    assert database.current(engine) == database.NEWEST
    with Session(engine) as session:
        token = tokens.read((SECRET,), ALICE)
        assert (user := accounts.find_by_token(session, token)) is not None
        assert (user.name, user.id, user.cap) == ("alice", 42, 6)
        assert len(accounts.all_users(session)) == 5
        assert [count.count for count in session.scalars(select(Count).order_by(Count.key))] == [3, 9]
    for one in (old, engine):
        one.dispose()


def test_the_names(run: Run) -> None:
    """Users whose names are no longer allowed are listed, found, changed and renamed."""
    names = [user["name"] for user in json.loads(run("users", "list", "--json").stdout)]
    assert names == ["--help", "Alice", "alice", "mallory", "\N{CYRILLIC SMALL LETTER A}lice"]
    for who in (["--", "--help"], ["Alice"], [names[-1]], ["45"]):
        assert run("users", "show", *who).exit_code == 0
        assert run("users", "quota", *who, "2").exit_code == 0
    assert run("users", "rename", "44", "helper").exit_code == 0
    assert run("users", "rename", "Alice", "alice").exit_code == 1
    assert json.loads(run("users", "show", "helper", "--json").stdout)["id"] == "44"


ACCEPTED = {
    "AUGU_ENV": "production",
    "AUGU_SECRET_KEY": SECRET,
    "DATABASE_URL": "postgres://augu:pass@localhost/augu",
    "AUGU_RATELIMIT_STORAGE": "redis://localhost:6379",
    "AUGU_BAN_MINUTES": "10",
    "AUGU_MODEL": "bundled",
    "AUGU_WEIGHTS_URL": "https://download.pytorch.org/models",
    "AUGU_MAX_PIXELS": "25000000",
    "AUGU_QUEUE": "8",
    "AUGU_METRICS_TOKEN": "m" * 32,
    "AUGU_DOCS_URL": "/openapi.json",
    "WEB_CONCURRENCY": "4",
    "PORT": "8000",
}
"""Every variable of the oldest release but the two for folders, with a usual value."""
REFUSED = {
    "AUGU_RATELIMIT_STORAGE": ("memory://", "must start with redis://"),
    "DATABASE_URL": ("sqlite://augu.db", "must start with sqlite:///"),
    "AUGU_WEIGHTS_URL": ("https://user:pass@mirror.example", "must not contain a user name"),
    "WEB_CONCURRENCY": ("5000", "must be at most 1000"),
    "PORT": ("70000", "must be at most 65535"),
}
"""What the oldest release accepted, and what this one says."""


def test_its_settings(tmp_path: Path) -> None:
    """The usual values of the old settings are accepted."""
    folders = {"AUGU_DATA_DIR": str(tmp_path / "data"), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    settings = Settings.from_env(ACCEPTED | folders)
    assert (settings.secret_key, settings.queue, settings.docs_url) == (SECRET, 8, "/openapi.json")
    assert settings.database_url == "postgresql+psycopg://augu:pass@localhost/augu"


@pytest.mark.parametrize("variable", REFUSED)
def test_settings_that_are_refused(variable: str) -> None:
    """A value that is no longer accepted is refused with a hint, not ignored."""
    value, hint = REFUSED[variable]
    with pytest.raises(SettingsError, match=f"^{variable}: .*{hint}"):
        Settings.from_env(ACCEPTED | {variable: value})
