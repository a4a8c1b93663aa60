"""Back up the database and restore it. A backup of SQLite and one of PostgreSQL are the same."""

import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from typing import Any, BinaryIO

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.types import TypeEngine

from augu_api.store import migrate
from augu_api.store.archive import BackupError, Damaged, Row, read_header, read_rows
from augu_api.store.database import IN_USE, connect, one_statement, open_existing, revision_of

BATCH = 1000  # rows
PATIENCE = 2.0  # seconds in which a service that has been stopped closes its connections
LOCK_TIMEOUT = "10s"  # for other programs that read the tables
HOLDERS = text("""
    SELECT DISTINCT coalesce(host(client_addr), 'a local socket')
    FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND pid <> pg_backend_pid()
        AND pg_database.datname = current_database()
""")
Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Shows how far a loop over that many rows is."""


@dataclass(frozen=True)
class Snapshot:
    """The database at one moment: the revision of its tables, how many rows they have, and the rows."""

    revision: str
    counts: Counter[str]
    rows: Iterator[Row]


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """The database as it is now, whatever is written meanwhile. Waits for nobody, and nobody waits for it.

    Raises BackupError if there are no tables, or those of a newer release.
    """
    with open_existing(url) as engine, _reading(engine) as connection:
        revision = revision_of(connection)
        if revision is None:
            raise BackupError("the database has no tables: is this the environment of the service?")
        found = _tables(revision)
        counts = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in found}
        yield Snapshot(revision, Counter(counts), _rows(connection, found))


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    """A connection that sees only what was committed when it began to read."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            connection.exec_driver_sql("BEGIN")
        yield connection


def _rows(connection: Connection, tables: list[Table]) -> Iterator[Row]:
    for table in tables:
        for row in connection.execute(select(table), execution_options={"yield_per": BATCH}).mappings():
            yield table.name, dict(row)


@cache
def _tables(revision: str) -> list[Table]:
    """The tables at a revision, which the migrations make in memory. Raises BackupError for an unknown revision."""
    if revision not in migrate.revisions():
        raise BackupError("the tables are of a newer release: use that one")
    engine, metadata = create_engine("sqlite://"), MetaData()
    with engine.begin() as connection:
        migrate.rebuild(connection, revision)
        metadata.reflect(connection)
    engine.dispose()
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


# --- restore


def check(file: BinaryIO) -> Counter[str]:
    """Read a whole backup; how many rows each table has. Raises BackupError if it cannot be restored."""
    return Counter(table.name for table, _ in _checked(file))


@contextmanager
def alone(url: str) -> Iterator[Connection]:
    """A connection in a transaction, while nobody else uses the database: others who connect wait for its end.

    Nothing is changed without a commit. Raises BackupError if the database is in use.
    """
    engine = connect(url)
    take = _take_postgresql if engine.dialect.name == "postgresql" else _take_sqlite
    try:
        with take(engine) as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _take_postgresql(engine: Engine) -> Iterator[Connection]:
    """Take the lock that all connections share. A pooler would hand it to others, and has process ids of its own."""
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if driver.info.backend_pid != connection.scalar(text("SELECT pg_backend_pid()")):
            raise BackupError("DATABASE_URL leads to a pooler, such as PgBouncer: name PostgreSQL's own address")
        query = text("SELECT pg_try_advisory_xact_lock(:lock)")
        if not _soon(lambda: bool(connection.scalar(query, {"lock": IN_USE}))):
            holders = sorted(connection.scalars(HOLDERS, {"lock": IN_USE}))
            raise BackupError(f"the database is in use from {', '.join(holders)}: stop the service on every host")
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        yield connection


@contextmanager
def _take_sqlite(engine: Engine) -> Iterator[Connection]:
    """Leave the write-ahead log, which SQLite does only while no other connection is open, and let nobody in."""
    with one_statement(engine).connect() as connection:
        if not _soon(lambda: _leaves_wal(connection)):
            raise BackupError("another process has the database open: stop the service")
    with engine.connect() as connection:  # the same one, as the pool has no other
        connection.begin()  # before Alembic, which would commit what it began itself
        yield connection


def _leaves_wal(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes to hold. It is tried again and again, because others would wait behind a waiter."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def load(connection: Connection, file: BinaryIO, total: int, watch: Watch, *, replace: bool) -> None:
    """Put a checked backup of `total` rows in the place of what the database holds; the caller commits.

    Raises BackupError if there are users already and `replace` is not set.
    """
    if not replace and revision_of(connection) and connection.scalar(text("SELECT count(*) FROM users")):
        raise BackupError("the database has users already: --replace removes them")
    migrate.rebuild(connection, read_header(file).revision)
    try:
        for table, rows in groupby(watch(_checked(file), total), lambda row: row[0]):
            while batch := [values for _, values in islice(rows, BATCH)]:
                connection.execute(insert(table), batch)
    except IntegrityError:
        raise Damaged("it has a row twice") from None
    migrate.finish(connection)


def _checked(file: BinaryIO) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Yield the rows that fit their tables. Raises BackupError."""
    tables = {table.name: table for table in _tables(read_header(file).revision)}
    fit = {name: {column.name: _fits(column) for column in table.columns} for name, table in tables.items()}
    for name, values in read_rows(file):
        fits = fit.get(name, {})
        if not fits or values.keys() != fits.keys() or not all(fits[key](values[key]) for key in values):
            raise Damaged("it has a row that fits no table")
        yield tables[name], values


def _fits(column: Column[Any]) -> Callable[[Any], bool]:
    """Whether a value can be stored in the column, in both kinds of database."""
    accepts = _accepts(column.type)
    return lambda value: bool(column.nullable) if value is None else accepts(value)


def _accepts(kind: TypeEngine[Any]) -> Callable[[Any], bool]:
    match kind:
        case String():
            longest = kind.length or 0
            return lambda value: isinstance(value, str) and len(value) <= longest and value.isprintable()
        case Float():
            return lambda value: isinstance(value, float) and math.isfinite(value)
        case Integer():
            largest = 2 ** (63 if isinstance(kind, BigInteger) else 31) - 1
            return lambda value: type(value) is int and -largest <= value <= largest
    raise TypeError(kind)
