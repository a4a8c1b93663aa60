"""Connect to the application's database."""

import os
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from limits.errors import StorageError
from sqlalchemy import URL, Connection, Dialect, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from augu_api.config import SettingsError
from augu_api.folders import hide

BUSY_SECONDS = 30
INSTALL = "pip install 'augu-api[{}]'"
TIMEOUTS = {"connect_timeout": "5", "tcp_user_timeout": "5000"}  # libpq's names: seconds, milliseconds
IN_USE = 0x61756776  # the number of the advisory lock that every connection to PostgreSQL shares
NEWEST = "0001"  # the newest revision in migrations/versions


def connect(url: str) -> Engine:
    """An engine for a `sqlite:///` or `postgresql+psycopg://` URL; no connection is opened yet.

    Raises SettingsError if the driver is not installed or the URL has a bad option, if need be when it connects.
    """
    try:
        with _refusing_bad_options():
            engine = create_engine(url)
    except ImportError:
        raise SettingsError(f"DATABASE_URL: needs the package psycopg: {INSTALL.format('postgresql')}") from None
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _set_timeouts)
        event.listen(engine, "connect", _share_lock)
        event.listen(engine, "checkout", _check_open)
    else:
        _keep_private(engine.url.database)
        event.listen(engine, "do_connect", _connect_sqlite)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def connect_upgraded(url: str) -> Engine:
    """An engine for a database whose tables are first migrated to the newest revision. Raises SettingsError."""
    engine = connect(url)
    upgrade(engine)
    return engine


def upgrade(engine: Engine) -> str | None:
    """Migrate the tables to the newest revision; the revision before, or None if there were no tables."""
    before = current(engine)
    if before != NEWEST:
        import_module("augu_api.store.migrate").to_newest(engine)  # Alembic takes 0.1 s to import
    return before


def revision_at(url: str) -> str | None:
    """The revision of the tables at the URL, or None if there are none; creates nothing."""
    if url.startswith("sqlite") and not Path(make_url(url).database or "").exists():
        return None
    with open_existing(url) as engine:
        return current(engine)


def place(engine: Engine) -> str:
    """Where a database is, without what may be a password: a file, or a host and a name."""
    url = engine.url
    return str(url.database) if url.host is None else f"{url.database} on {url.host}"


def current(engine: Engine) -> str | None:
    """The revision of the tables, or None if there are none."""
    with one_statement(engine).connect() as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """The same, within the connection's transaction."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


@contextmanager
def open_existing(url: str) -> Iterator[Engine]:
    """An engine for looking at a database: a SQLite file that is missing is an error and is not created."""
    engine = connect(url) if not url.startswith("sqlite") else _existing_file(make_url(url))
    try:
        yield engine
    finally:
        engine.dispose()


def _existing_file(url: URL) -> Engine:
    """The file that must exist; `timeout` in the URL is how many seconds to wait for a lock."""
    uri = f"{Path(url.database or '').absolute().as_uri()}?mode=rw"
    with _refusing_bad_options():
        timeout = float(str(url.query.get("timeout", 5)))
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=timeout), poolclass=NullPool
    )


@contextmanager
def _refusing_bad_options() -> Iterator[None]:
    """Turn an error about the URL's options into SettingsError, which does not show them: one may be a password."""
    try:
        yield
    except (ArgumentError, TypeError, ValueError, OverflowError) as error:
        raise SettingsError("DATABASE_URL: an option after the ? has a value that cannot be used") from error


def one_statement(engine: Engine) -> Engine:
    """The same engine, but each statement is a transaction of its own."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _connect_sqlite(
    dialect: Dialect, _: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
) -> DBAPIConnection:
    with _refusing_bad_options():
        return dialect.connect(*arguments, **options)


def _set_timeouts(_: Dialect, __: ConnectionPoolEntry, ___: list[Any], options: dict[str, Any]) -> None:
    """Wait seconds, not minutes, for a server that does not answer, unless the URL says otherwise."""
    options.update(TIMEOUTS | options)


def _check_open(connection: Any, _: ConnectionPoolEntry, __: object) -> None:
    """Replace connections that the server has closed while they were idle: there is something to read from them.

    SQLAlchemy's `pool_pre_ping` would send a query for each of ours.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        raise InvalidatePoolError


def _share_lock(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Hold a lock as long as the connection is open, so that nobody restores a backup meanwhile (store/backup.py)."""
    connection.autocommit = True  # one message to the server instead of three
    connection.cursor().execute(f"SELECT pg_advisory_lock_shared({IN_USE})")
    connection.autocommit = False


def _keep_private(name: str | None) -> None:
    """Create the file, if it is missing, for its owner alone; SQLite gives its log files the same mode."""
    if not name or name == ":memory:" or name.startswith("file:"):
        return
    with suppress(OSError):  # it exists, or SQLite has the better message
        os.close(os.open(name, os.O_CREAT | os.O_EXCL, 0o600))
    for end in ("", "-wal", "-shm"):
        hide(Path(f"{name}{end}"))


def explain(error: SQLAlchemyError | StorageError) -> str:
    """One line that says what cannot be used, the database or the rate limit storage, and why."""
    is_database = isinstance(_cause(error), SQLAlchemyError)
    part = "The database" if is_database else "The rate limit storage (AUGU_RATELIMIT_STORAGE)"
    return f"{part} cannot be used: {reason(error)}"


def reason(error: Exception) -> str:
    """The driver's message in one line; SQLAlchemy would add the statement."""
    cause = _cause(error)
    return " ".join(str(getattr(cause, "orig", cause)).split())


def _cause(error: Exception) -> Exception:
    return error.storage_error if isinstance(error, StorageError) else error


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # SQLAlchemy says when a transaction begins; sqlite3 would guess
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _use_wal(cursor: DBAPICursor) -> None:
    """Switch to the write-ahead log; SQLite itself does not wait if another process is switching a new file."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that asks for it later fails instead of waiting."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
