"""Migrate the tables of the application's database, with Alembic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from augu_api.config import SettingsError

LOCK = 0x61756775  # an arbitrary number, the same in every process of the application


def to_newest(engine: Engine) -> None:
    """Migrate the tables to the newest revision. Raises SettingsError if this release does not know theirs."""
    with _known():
        upgrade(engine)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the tables up to `revision`; if several processes try at once, one of them does it."""
    with engine.begin() as connection:
        _migrate(connection, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate the tables down to `revision`."""
    with engine.begin() as connection:
        _migrate(connection, command.downgrade, revision)


def revisions() -> list[str]:
    """The revisions known to this release, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def rebuild(connection: Connection, revision: str) -> None:
    """Drop the tables and make them again, empty, at `revision`, within the connection's transaction.

    Raises SettingsError if this release does not know the tables that are there.
    """
    with _known():
        _migrate(connection, command.downgrade, "base")
    _migrate(connection, command.upgrade, revision)


def finish(connection: Connection) -> None:
    """Migrate the tables to the newest revision, within the connection's transaction."""
    _migrate(connection, command.upgrade, "head")


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise SettingsError(f"DATABASE_URL: the tables are of a newer release: {error}") from error


def _migrate(connection: Connection, direction: Callable[[Config, str], object], revision: str) -> None:
    config = _config()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    config.attributes["connection"] = connection
    direction(config, revision)
