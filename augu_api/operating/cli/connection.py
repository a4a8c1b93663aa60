"""The database and the rate limit storage, for the commands that need them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from augu_api.config import Settings
from augu_api.operating.cli import environment
from augu_api.operating.cli.output import say
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
    """Connect as the service does: the database is first brought up to date. Raises SettingsError.

    If the database or the secret has to be made, standard error says so.
    """
    settings = environment.settings()
    engine = database.connect(settings.database_url)
    try:
        if database.upgrade(engine) is None:
            say(f"Made a new database: {database.place(engine)}")
        yield Backend(settings, engine, Quotas(engine, settings.ratelimit_storage, settings.ban_minutes))
    finally:
        engine.dispose()
