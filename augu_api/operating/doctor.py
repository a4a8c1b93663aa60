"""What is wrong with an installation, and what to do: each check looks, and makes and changes nothing."""

import os
import resource
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from limits.errors import StorageError
from PIL import Image
from sqlalchemy import Engine, func, insert, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from augu_api import config, detection
from augu_api.config import CORES, ROOT, Settings, SettingsError
from augu_api.detection import Detector, ModelUnavailable
from augu_api.detection.catalogue import PUBLISHED, find
from augu_api.detection.engines import load, optional
from augu_api.store import database as db
from augu_api.store.models import Count, User
from augu_api.store.quotas import Quotas

RELEASED = 2026  # the year of this release: no clock is right that shows an earlier one
SKEW = 2  # seconds by which two clocks may differ
MB = 10**6
PHOTO = ROOT / "examples" / "street.png"
CGROUP = Path("/sys/fs/cgroup")
FIELDS = {f.metadata["variable"]: f for f in fields(Settings)}


class State(StrEnum):
    """How a check ended; a PROBLEM keeps the service from starting, from answering, or its users from being safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What one look gave: one line, without a secret; that of a warning or a problem ends with what to do."""

    check: str
    state: State
    found: str


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, found)


def bad(state: State, check: str, found: object, to_do: str = "") -> Finding:
    """Something is to be done; a message that says so itself needs no `to_do`."""
    said = " ".join(str(found).split())
    return Finding(check, state, f"{said}: {to_do}" if to_do else said)


def examine() -> Iterator[Finding]:
    """Look at everything that can be looked at with the settings of the environment."""
    settings, wrong = Settings.examine()
    given = config.given()
    for variable, error in wrong.items():
        yield bad(State.PROBLEM, "settings", error, f"mend {variable}; README.md says what it decides")
    for variable in given:
        if variable not in FIELDS:
            yield bad(State.WARNING, "settings", f"{variable} is no setting", "mend its name, or unset it")
    right = [variable for variable in given if variable in FIELDS and variable not in wrong]
    yield ok("settings", f"set and understood: {', '.join(right) or 'none, so every default holds'}")
    for check, needs in CHECKS.items():
        if lacking := sorted(needs & set(wrong)):
            yield bad(State.WARNING, check.__name__, "not looked at", f"first mend {lacking[0]}")
        else:
            yield from _guarded(check, settings)


def _guarded(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    """One check that ends unforeseen is a finding; the others go on."""
    try:
        yield from check(settings)
    except (OSError, SettingsError) as error:
        yield bad(State.PROBLEM, check.__name__, error, "run this as the user that serves, or mend what it names")
    except Exception as error:  # what it says is not shown: a URL with its password may be in it
        yield bad(State.PROBLEM, check.__name__, f"ended by {type(error).__name__}", "mend the setting, or report this")


# --- where things are kept


def folders(settings: Settings) -> Iterator[Finding]:
    """The data folder, the folder of the workers' metrics, and the disk that they are on."""
    needed = not settings.secret_keys or str(settings.data_dir) in settings.database_url
    places = ("AUGU_DATA_DIR", settings.data_dir), ("PROMETHEUS_MULTIPROC_DIR", settings.metrics_dir)
    for variable, folder in places:
        there = _there(folder or Path(tempfile.gettempdir()))
        if folder and there != folder and variable != "AUGU_DATA_DIR":
            yield bad(State.PROBLEM, "folders", f"{folder} is missing", f"make it, or unset {variable}")
        elif not _is_writable(there):
            state = State.PROBLEM if needed or variable != "AUGU_DATA_DIR" else State.WARNING
            to_do = f"`chown` it, or name another in {variable}"
            yield bad(state, "folders", f"{there} cannot be written by the user {os.geteuid()}", to_do)
        else:
            kept = f"{there} is writable" if there == folder or not folder else f"the first start makes {folder}"
            yield from _space(there, kept)


def _space(folder: Path, kept: str) -> Iterator[Finding]:
    free = disk_usage(folder).free / MB
    if free < 1000:
        state = State.PROBLEM if free < 100 else State.WARNING
        yield bad(state, "folders", f"{folder} has {free:.0f} MB left on its disk", "make room")
    else:
        yield ok("folders", f"{kept}, {free:.0f} MB are free")


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def secret(settings: Settings) -> Iterator[Finding]:
    """The secret that is kept if none is set: readable by us, and by nobody else."""
    path = settings.secret_file
    if settings.secret_keys:
        yield ok("secret", f"{len(settings.secret_keys)} set")
    elif not path.exists():
        yield ok("secret", f"the first start makes one in {path}")
    elif len(path.read_text().strip()) < 32:
        yield bad(State.PROBLEM, "secret", f"{path} is cut short", "restore it from a backup")
    elif others := stat.S_IMODE(path.stat().st_mode) & 0o077:
        state = State.PROBLEM if others & 0o007 else State.WARNING
        yield bad(state, "secret", f"others can read or change {path}", f"`chmod 600 {path}`")
    else:
        yield ok("secret", f"{path} is its owner's alone")


# --- the database and its like


def database(settings: Settings) -> Iterator[Finding]:
    """The database: reachable, at the newest revision, writable."""
    url = make_url(settings.database_url)
    where = url.database if url.host is None else f"{url.host}:{url.port or 5432}/{url.database}"
    if url.get_backend_name() == "sqlite" and not Path(str(where)).exists():
        if _is_writable(_there(Path(str(where)).parent)):
            yield ok("database", f"the first start makes {where}")
        else:
            yield bad(State.PROBLEM, "database", f"{where} cannot be made", "`chown` its folder, or set DATABASE_URL")
        return
    try:
        with db.visit(settings.database_url) as engine:
            yield _revision(engine, str(where))
    except SQLAlchemyError as error:
        yield bad(State.PROBLEM, "database", f"{where} cannot be used ({db.reason(error)})", _remedy(settings))


def _revision(engine: Engine, where: str) -> Finding:
    at, known = db.current(engine), db.revisions()
    if at is None or at in known[1:]:
        to_do = "the next start does the rest, or `augu-api db upgrade`"
        return bad(State.WARNING, "database", f"{where} is at {at or 'no revision'}, not {known[0]}", to_do)
    if at not in known:
        to_do = f"run that release, or have it run `augu-api db downgrade {known[0]}`"
        return bad(State.PROBLEM, "database", f"{where} is at {at} of a newer release", to_do)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(insert(Count).values(key="doctor", count=0, expires_at=0))
        connection.rollback()
    return ok("database", f"{where} answers, is at {at} and can be written")


def _remedy(settings: Settings) -> str:
    if settings.database_url.startswith("sqlite"):
        return "mend the file's owner or its disk, or restore a backup"
    return "start the server, or mend DATABASE_URL"


def counts(settings: Settings) -> Iterator[Finding]:
    """Where requests are counted: it counts one under a name of its own, which is gone after a second."""
    url = urlsplit(settings.ratelimit_storage)
    if not settings.ratelimit_storage:
        yield ok("counts", "requests are counted in the database")
        return
    where = f"{url.hostname}:{url.port}" if url.port else str(url.hostname or url.path)
    try:
        with db.visit(settings.database_url) as engine:
            quotas = Quotas(engine, settings.ratelimit_storage, settings.ban_minutes)
            quotas.storage.incr("augu-doctor", 1)
        yield ok("counts", f"{where} answers and counts")
    except StorageError as error:
        to_do = "start it, or mend AUGU_RATELIMIT_STORAGE"
        yield bad(State.PROBLEM, "counts", f"{where} cannot be used ({db.reason(error)})", to_do)


def clock(settings: Settings, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """The clock of this machine, beside the newest token and the database server's clock where there are any."""
    year = datetime.fromtimestamp(now(), UTC).year
    to_do = "let NTP set it (`timedatectl set-ntp true`)"
    if year < RELEASED:
        yield bad(State.PROBLEM, "clock", f"the clock shows {year}", to_do)
        return
    try:
        newest, ahead = _times(settings, now)
    except SQLAlchemyError:
        yield ok("clock", f"it shows {year}; there is no database to compare it with")
        return
    if newest > now() + SKEW:
        behind = f"the newest token is from {newest - now():.0f} seconds ahead of the clock"
        yield bad(State.PROBLEM, "clock", behind, to_do)
    elif abs(ahead) > SKEW:
        yield bad(State.WARNING, "clock", f"the database's clock differs by {ahead:.0f} seconds", f"{to_do} on both")
    else:
        yield ok("clock", f"it shows {year} and agrees with the database")


def _times(settings: Settings, now: Callable[[], float]) -> tuple[float, float]:
    """When the newest token was issued (Unix time), and how many seconds the database server's clock is ahead."""
    with db.visit(settings.database_url) as engine, engine.connect() as connection:
        newest = connection.scalar(select(func.max(User.issued_at))) or 0
        ahead = 0.0
        if engine.dialect.name == "postgresql":
            ahead = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0) - now()
    return newest / 1000, ahead


# --- the model and who runs it


def model(settings: Settings) -> Iterator[Finding]:
    """The weights beside their sha256, their export beside them, and what would serve them."""
    try:
        chosen = find(settings.model, settings)
    except ModelUnavailable as error:
        yield bad(State.PROBLEM, "model", error, "mend AUGU_MODEL, or bring back the folder")
        return
    try:
        chosen.verify()
        yield ok("weights", f"{chosen.weights} has its sha256")
    except ModelUnavailable as error:
        yield bad(State.WARNING if chosen.export.is_file() else State.PROBLEM, "weights", error)
    if settings.engine != "torchvision":
        try:
            optional("onnx").load(chosen, settings.engine_threads)
            yield ok("export", f"{chosen.export} loads and is of these weights")
        except ModelUnavailable as error:
            yield bad(State.PROBLEM if settings.engine == "onnx" else State.WARNING, "export", error)
    try:
        yield seen(load(settings))
    except ModelUnavailable as error:
        yield bad(State.PROBLEM, "engine", error)


def seen(detector: Detector) -> Finding:
    """What is served, and what it finds in the example photo."""
    serves = f"{detector.facts['engine']} serves {detector.facts['model']}"
    if not PHOTO.is_file():
        return ok("engine", f"{serves}; {PHOTO} is not there to try it on")
    pixels = np.asarray(Image.open(PHOTO).convert("RGB"))
    found = detection.select(detector.detect(pixels), min_score=60, limit=100, names=None)
    names = ", ".join(d.name for d in found)
    if not found and detector.facts["model"] in ("bundled", *PUBLISHED):
        return bad(State.PROBLEM, "engine", f"{serves} and finds nothing in {PHOTO}", "restore weights and export")
    return ok("engine", f"{serves} and finds in {PHOTO.name}: {names or 'nothing, which may be right for this model'}")


def workers(settings: Settings, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """The workers beside the cores and the memory of this machine or container (Linux' cgroup v2).

    The memory of one is taken to be the most that this process had, with its model loaded.
    """
    cores = min(CORES, _quota(cgroup / "cpu.max"))
    memory = min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _quota(cgroup / "memory.max")) / MB
    each = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
    found = f"{settings.workers} workers of about {each:.0f} MB, on {cores:g} cores and {memory:.0f} MB"
    if settings.workers * each > memory:
        yield bad(State.PROBLEM, "workers", found, f"set WEB_CONCURRENCY to {max(1, int(memory / each))} or less")
    elif settings.workers > max(1, cores):
        yield bad(State.WARNING, "workers", found, f"more than cores win nothing; WEB_CONCURRENCY={max(1, int(cores))}")
    else:
        yield ok("workers", found)


def _quota(file: Path) -> float:
    """What a cgroup's file allows: a number, or two of which the second is the unit; endless if it says `max`."""
    try:
        given, *unit = file.read_text().split()
        return float(given) / float(unit[0]) if unit else float(given)
    except (OSError, ValueError):
        return float("inf")


CHECKS: dict[Callable[[Settings], Iterator[Finding]], set[str]] = {
    folders: {"AUGU_DATA_DIR", "PROMETHEUS_MULTIPROC_DIR"},
    secret: {"AUGU_DATA_DIR", "AUGU_SECRET_KEY", "AUGU_SECRET_KEYS"},
    database: {"AUGU_DATA_DIR", "DATABASE_URL"},
    counts: {"AUGU_DATA_DIR", "DATABASE_URL", "AUGU_RATELIMIT_STORAGE"},
    clock: {"AUGU_DATA_DIR", "DATABASE_URL"},
    model: {"AUGU_DATA_DIR", "AUGU_MODEL", "AUGU_ENGINE", "WEB_CONCURRENCY"},
    workers: {"WEB_CONCURRENCY"},
}
"""The checks in their order, each with the settings that it needs."""
