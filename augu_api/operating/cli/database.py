"""The database's tables: `augu-api db`."""

from collections.abc import Callable

import click
from sqlalchemy import Engine

from augu_api.operating.cli import environment
from augu_api.operating.cli.output import say
from augu_api.store import database, migrate


@click.group()
def db() -> None:
    """Upgrade or downgrade the database's tables."""


def _revision(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text:
        raise click.BadParameter("it is empty.")
    return text


@db.command("upgrade")
@click.argument("revision", default="head", callback=_revision)
def upgrade(revision: str) -> None:
    """Upgrade the tables to REVISION, the newest by default; every start does this too."""
    _migrate(migrate.upgrade, revision)


@db.command("downgrade")
@click.argument("revision", callback=_revision)
def downgrade(revision: str) -> None:
    """Downgrade the tables to REVISION (`base`: no tables), before you start an older release."""
    _migrate(migrate.downgrade, revision)


@db.command("current")
def current() -> None:
    """Print the revision of the tables."""
    click.echo(database.revision_at(environment.examined().database_url) or "none")


def _migrate(direction: Callable[[Engine, str], None], revision: str) -> None:
    engine = database.connect(environment.settings().database_url)
    try:
        before = database.current(engine)
        direction(engine, revision)
        after = database.current(engine)
    finally:
        engine.dispose()
    if before is None and after:
        say(f"Made a new database: {database.place(engine)}")
    say(f"The database is at {after or 'no revision'}.")
