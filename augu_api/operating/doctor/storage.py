"""Checks of files, database, counts and clock."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import disk_usage
from urllib.parse import urlsplit

from limits.errors import StorageError
from sqlalchemy import Engine, func, insert, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from augu_api.config import Settings
from augu_api.folders import open_to_others, temporary_folder
from augu_api.operating.doctor.findings import Finding, ok, problem, warning
from augu_api.store import database as db
from augu_api.store import migrate
from augu_api.store.models import Count, User
from augu_api.store.quotas import Quotas

MB = 10**6
RELEASE_YEAR = 2026  # a clock that shows an earlier year is wrong
MAX_SKEW = 2  # seconds by which two clocks may differ
USE_NTP = "let NTP set it (`timedatectl set-ntp true`)"


def folders(settings: Settings) -> Iterator[Finding]:
    """The data folder and the metrics' can be written, the first not by every user, and their disks have space."""
    if settings.data_dir.is_dir() and open_to_others(settings.data_dir):
        fix = f"`chmod o-rwx {settings.data_dir}`, or set AUGU_DATA_DIR to a folder of its own"
        yield problem("folders", f"every user can write to {settings.data_dir}", fix)
    yield _folder("AUGU_DATA_DIR", settings.data_dir, needed=settings.keeps_data)
    yield _folder("PROMETHEUS_MULTIPROC_DIR", settings.metrics_dir or temporary_folder(), needed=True)


def _folder(variable: str, folder: Path, *, needed: bool) -> Finding:
    existing = _existing(folder)
    if not _is_writable(existing):
        report = problem if needed else warning
        fix = f"`chown` it, or set {variable} to another folder"
        return report("folders", f"the user {os.geteuid()} cannot write to {existing}", fix)
    free = disk_usage(existing).free / MB
    if free < 1000:
        report = problem if free < 100 else warning
        return report("folders", f"{existing} has {free:.0f} MB left on its disk", "free some space")
    state = f"{folder} is writable" if folder == existing else f"the first start creates {folder}"
    return ok("folders", f"{state}, {free:.0f} MB free")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def secret(settings: Settings) -> Iterator[Finding]:
    """The secret is set, or kept in a file that only its owner can read."""
    path = settings.secret_file
    if settings.secret_keys:
        yield ok("secret", "set in the environment")
    elif not path.exists():
        yield ok("secret", f"the first start creates one in {path}")
    elif len(path.read_text().strip()) < 32:
        yield problem("secret", f"{path} is truncated", "restore it from a backup")
    elif others := stat.S_IMODE(path.stat().st_mode) & 0o077:
        report = problem if others & 0o007 else warning
        yield report("secret", f"other users can read or change {path}", f"`chmod 600 {path}`")
    else:
        yield ok("secret", f"only its owner can read {path}")


def database(settings: Settings) -> Iterator[Finding]:
    """The database answers, is at the newest revision, and is writable."""
    url = make_url(settings.database_url)
    where = url.database if url.host is None else f"{url.host}:{url.port or 5432}/{url.database}"
    if url.get_backend_name() == "sqlite" and not Path(str(where)).exists():
        yield _new_file(Path(str(where)))
        return
    try:
        with db.open_existing(settings.database_url) as engine:
            yield _revision(engine, str(where))
    except SQLAlchemyError as error:
        file = settings.database_url.startswith("sqlite")
        fix = (
            "fix the file's owner or its disk, or restore a backup"
            if file
            else "start the server, or correct DATABASE_URL"
        )
        yield problem("database", f"{where} cannot be used ({db.reason(error)})", fix)


def _new_file(path: Path) -> Finding:
    if _is_writable(_existing(path.parent)):
        return ok("database", f"the first start creates {path}")
    return problem("database", f"{path} cannot be created", "`chown` its folder, or set DATABASE_URL")


def _revision(engine: Engine, where: str) -> Finding:
    at, known = db.current(engine), migrate.revisions()
    if at is None or at in known[1:]:
        fix = "the next start upgrades it, or run `augu-api db upgrade`"
        return warning("database", f"{where} is at {at or 'no revision'}, not {known[0]}", fix)
    if at not in known:
        fix = f"run that release, or use it to run `augu-api db downgrade {known[0]}`"
        return problem("database", f"{where} is at {at}, the revision of a newer release", fix)
    _try_to_write(engine)
    return ok("database", f"{where} answers, is at {at} and is writable")


def _try_to_write(engine: Engine) -> None:
    """Insert a row and roll back. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(insert(Count).values(key="doctor", count=0, expires_at=0))
        connection.rollback()


def counts(settings: Settings) -> Iterator[Finding]:
    """The storage of the counts answers: it counts a request under a key of its own, which expires in a second."""
    if not settings.ratelimit_storage:
        yield ok("counts", "requests are counted in the database")
        return
    url = urlsplit(settings.ratelimit_storage)
    where = f"{url.hostname}:{url.port}" if url.port else str(url.hostname or url.path)
    try:
        with db.open_existing(settings.database_url) as engine:
            quotas = Quotas(engine, settings.ratelimit_storage, settings.ban_minutes)
            quotas.storage.incr("augu-doctor", 1)
        yield ok("counts", f"{where} answers and counts")
    except StorageError as error:
        fix = "start it, or correct AUGU_RATELIMIT_STORAGE"
        yield problem("counts", f"{where} cannot be used ({db.reason(error)})", fix)


def clock(settings: Settings, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """The clock agrees with the newest token and with the clock of the database server, where there are any."""
    year = datetime.fromtimestamp(now(), UTC).year
    if year < RELEASE_YEAR:
        yield problem("clock", f"the clock shows {year}", USE_NTP)
        return
    try:
        newest, ahead = _times(settings, now)
    except SQLAlchemyError:
        yield ok("clock", f"it shows {year}; there is no database to compare it with")
        return
    if newest > now() + MAX_SKEW:
        yield problem("clock", f"the clock is {newest - now():.0f} seconds behind the newest token", USE_NTP)
    elif abs(ahead) > MAX_SKEW:
        yield warning("clock", f"the database's clock differs by {ahead:.0f} seconds", f"{USE_NTP} on both machines")
    else:
        yield ok("clock", f"it shows {year} and agrees with the database")


def _times(settings: Settings, now: Callable[[], float]) -> tuple[float, float]:
    """When the newest token was issued (Unix time), and how many seconds the database server's clock is ahead."""
    with db.open_existing(settings.database_url) as engine, engine.connect() as connection:
        newest = connection.scalar(select(func.max(User.issued_at))) or 0
        ahead = 0.0
        if engine.dialect.name == "postgresql":
            ahead = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0) - now()
    return newest / 1000, ahead
