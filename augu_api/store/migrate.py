"""Migrate the tables of the application's database, with Alembic."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, text

from augu_api.config import SettingsError

LOCK = 0x61756775  # an arbitrary number, the same in every process of the application


def to_newest(engine: Engine) -> None:
    """Migrate the tables to the newest revision. Raises SettingsError if this release does not know theirs."""
    try:
        upgrade(engine)
    except CommandError as error:
        raise SettingsError(f"DATABASE_URL: the tables are of a newer release: {error}") from error


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the tables up to `revision`; if several processes try at once, one of them does it."""
    _migrate(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate the tables down to `revision`."""
    _migrate(engine, command.downgrade, revision)


def revisions() -> list[str]:
    """The revisions known to this release, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _migrate(engine: Engine, direction: Callable[[Config, str], object], revision: str) -> None:
    config = _config()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        config.attributes["connection"] = connection
        direction(config, revision)
