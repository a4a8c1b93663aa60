"""`augu-api backup`."""

from datetime import UTC, datetime
from pathlib import Path

import click

from augu_api.config import Settings, SettingsError
from augu_api.operating.cli import environment
from augu_api.operating.cli.backup_file import check_place, counted, created, file_argument
from augu_api.operating.cli.output import watched
from augu_api.store.archive import Header, write
from augu_api.store.backup import snapshot


@click.command("backup")
@file_argument
@click.option("--overwrite", is_flag=True, help="Replace FILE, if it is a backup.")
def backup(file: Path, *, overwrite: bool) -> None:
    """Save users, counts and secret in FILE, or on standard output if it is `-`. The service can keep running.

    Whoever can read FILE can make tokens for every user.
    """
    settings = _settings()
    check_place(file, overwrite=overwrite)
    with snapshot(settings.database_url) as found, created(file) as out:
        header = Header(found.revision, datetime.now(UTC).isoformat(" ", "seconds"), settings.secret_keys)
        write(out, header, watched("Backing up", found.rows, found.counts.total()))
    click.echo(f"Saved {counted(found.counts)}, and the secret.", err=True)
    if settings.ratelimit_storage:
        click.echo("The counts in Redis are not part of a backup.", err=True)


def _settings() -> Settings:
    """The settings with the secret. Creates none, because no token could be signed with it."""
    settings = environment.examined()
    if settings.secret_keys:
        return settings
    if not settings.secret_file.is_file():
        raise SettingsError(f"There is no secret in {settings.secret_file}: run this with the service's environment")
    return settings.with_secret()
