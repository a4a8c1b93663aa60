"""The database and the rate limit storage, for the commands that need them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from augu_api.config import Settings
from augu_api.store import database
from augu_api.store.quotas import Quotas


@dataclass(frozen=True)
class Backend:
    """The settings, and the database and the quotas that they configure."""

    settings: Settings
    engine: Engine
    quotas: Quotas


@contextmanager
def connected() -> Iterator[Backend]:
    """Connect as the service does: the database is first brought up to date. Raises SettingsError."""
    settings = Settings.from_env()
    engine = database.connect_upgraded(settings.database_url)
    try:
        yield Backend(settings, engine, Quotas(engine, settings.ratelimit_storage, settings.ban_minutes))
    finally:
        engine.dispose()
