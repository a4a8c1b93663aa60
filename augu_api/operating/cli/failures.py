"""The failures that a command explains in one line."""

import os
import sys
import zlib
from pathlib import Path

from alembic.util import CommandError
from limits.errors import StorageError
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from augu_api.config import Settings, SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.operating.cli import environment
from augu_api.operating.cli.output import say
from augu_api.photos import ImageRejected
from augu_api.store.accounts import AccountError
from augu_api.store.archive import BackupError
from augu_api.store.database import explain

FORESEEN = (
    SettingsError,
    AccountError,
    BackupError,
    ModelUnavailable,
    ImageRejected,
    CommandError,
    OSError,
    EOFError,
    zlib.error,
)


def end(error: Exception) -> None:
    """End the program with a line about a foreseeable failure, and one for each of its notes; else return."""
    if said := _message(error):
        say(f"Error: {said}{_advice(error)}")
        for note in getattr(error, "__notes__", ()):
            say(note)
        sys.exit(1)


def _message(error: Exception) -> str | None:
    if isinstance(error, SQLAlchemyError | StorageError):
        return explain(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory."
    return str(error) or type(error).__name__ if isinstance(error, FORESEEN) else None


def _advice(error: Exception) -> str:
    """What to do if the failure is that another user owns the files."""
    if not _is_denied(error):
        return ""
    service = environment.deployed()
    return f" - run it as the service's user{f': {service.advice}' if service else ', with its environment'}"


def _is_denied(error: BaseException | None) -> bool:
    """Whether this user may not use the data folder or something in it."""
    if error is None:
        return False
    data = Settings.examine()[0].data_dir
    if isinstance(error, PermissionError) and error.filename and Path(str(error.filename)).is_relative_to(data):
        return True
    is_stored = isinstance(error, SQLAlchemyError | StorageError)
    return _is_denied(error.__cause__) or (is_stored and _is_denied_database())


def _is_denied_database() -> bool:
    """Whether the database is a file that is not this user's: SQLite does not say why it cannot open one."""
    url = make_url(Settings.examine()[0].database_url)
    file = Path(url.database or "")
    if url.host is not None or not os.access(file.parent, os.F_OK):
        return False
    return not os.access(file.parent, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.R_OK | os.W_OK))
