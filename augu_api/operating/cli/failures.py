"""The failures that a command explains in one line."""

from alembic.util import CommandError
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError

from augu_api.config import SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.photos import ImageRejected
from augu_api.store.accounts import AccountError
from augu_api.store.archive import BackupError
from augu_api.store.database import explain

FORESEEN = (SettingsError, AccountError, BackupError, ModelUnavailable, ImageRejected, CommandError, OSError)


def message(error: Exception) -> str | None:
    """What to say about a foreseeable failure; None about any other."""
    if isinstance(error, DBAPIError | StorageError):
        return explain(error)
    return str(error) if isinstance(error, FORESEEN) else None
