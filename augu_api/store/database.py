"""Connect to the application's database, and bring its tables up to date."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from limits.errors import StorageError
from sqlalchemy import Connection, Dialect, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from augu_api.config import hide

BUSY_SECONDS = 30
PATIENCE = {"connect_timeout": "5", "tcp_user_timeout": "5000"}  # libpq's: seconds, milliseconds
MIGRATION_LOCK = 0x61756775  # any number that every process of the application agrees on


def connect(url: str) -> Engine:
    """An engine for a `sqlite:///` or `postgresql+psycopg://` URL; no connection is opened yet."""
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))  # a file does not hang up
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _be_impatient)
    else:
        _keep_private(engine.url.database)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def visit(url: str) -> Iterator[Engine]:
    """An engine for somebody who only looks: a SQLite file that is not there is an error, and stays as it is."""
    engine = connect(url) if not url.startswith("sqlite") else _visit_file(Path(make_url(url).database or ""))
    try:
        yield engine
    finally:
        engine.dispose()


def _visit_file(path: Path) -> Engine:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=5), poolclass=NullPool)


def one_statement(engine: Engine) -> Engine:
    """The same engine for work that is a single statement, each its own transaction."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _be_impatient(_: Dialect, __: ConnectionPoolEntry, ___: list[Any], options: dict[str, Any]) -> None:
    """Give a server that is gone a few seconds, not minutes, unless the URL says otherwise."""
    options.update(PATIENCE | options)


def _keep_private(name: str | None) -> None:
    """Make the file, if it is not there, its owner's alone; SQLite gives its log the same mode."""
    if not name or name == ":memory:" or name.startswith("file:"):
        return
    with suppress(OSError):  # it is there; or SQLite says better what is wrong
        os.close(os.open(name, os.O_CREAT | os.O_EXCL, 0o600))
    for end in ("", "-wal", "-shm"):
        hide(Path(f"{name}{end}"))


def reason(error: Exception) -> str:
    """What the driver said, in one line; SQLAlchemy would add the statement."""
    cause = error.storage_error if isinstance(error, StorageError) else error
    return " ".join(str(getattr(cause, "orig", cause)).split())


def explain(error: DBAPIError | StorageError) -> str:
    """In one line, why the database or the storage of the counts cannot be used."""
    return f"The database cannot be used: {reason(error)}"


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not where sqlite3 guesses
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _use_wal(cursor: DBAPICursor) -> None:
    """Switch to the write-ahead log; SQLite does not wait for others who switch a new file at the same moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: a transaction that asks for it later cannot wait and fails instead."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables up to `revision`; of several processes that try at once, one does it."""
    _migrate(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to `revision`."""
    _migrate(engine, command.downgrade, revision)


def current(engine: Engine) -> str | None:
    """The revision that the tables are at, None if there are none."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def revisions() -> list[str]:
    """The revisions that this release knows, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _migrate(engine: Engine, direction: Callable[[Config, str], object], revision: str) -> None:
    config = _config()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        direction(config, revision)
