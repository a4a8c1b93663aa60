"""The database's tables: `augu-api db`."""

from collections.abc import Callable

import click
from sqlalchemy import Engine

from augu_api.config import Settings
from augu_api.store import database, migrate


@click.group()
def db() -> None:
    """Upgrade or downgrade the database's tables."""


@db.command("upgrade")
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Upgrade the tables to REVISION, the newest by default; every start does this too."""
    _migrate(migrate.upgrade, revision)


@db.command("downgrade")
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Downgrade the tables to REVISION (`base`: no tables), before you start an older release."""
    _migrate(migrate.downgrade, revision)


@db.command("current")
def current() -> None:
    """Print the revision of the tables."""
    click.echo(database.current(database.connect(Settings.from_env().database_url)) or "none")


def _migrate(direction: Callable[[Engine, str], None], revision: str) -> None:
    engine = database.connect(Settings.from_env().database_url)
    direction(engine, revision)
    click.echo(f"The database is at {database.current(engine) or 'no revision'}.", err=True)
