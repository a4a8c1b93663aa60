"""`augu-api restore`."""

import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from sqlalchemy import Connection

from augu_api.config import Settings
from augu_api.folders import replacing
from augu_api.operating.cli import environment
from augu_api.operating.cli.backup_file import counted, explaining, file_argument, opened
from augu_api.operating.cli.output import watched
from augu_api.store.archive import BackupError, Header, read_header
from augu_api.store.backup import alone, check, load

TO_KEEP = "or restore with --keep-secret, and give the users new tokens"


@click.command("restore")
@file_argument
@click.option("--replace", "over", is_flag=True, help="Remove the users and the secret that are here.")
@click.option("--keep-secret", is_flag=True, help="Leave the secret here as it is; the users need new tokens.")
@click.option("--print-secret", is_flag=True, help="Restore nothing: print the secret, as environment files have it.")
def restore(file: Path, *, over: bool, keep_secret: bool, print_secret: bool) -> None:
    """Restore what `augu-api backup` saved in FILE, or on standard input if it is `-`: everything or nothing.

    Stop the service first, on every host. A backup of SQLite can be restored to PostgreSQL, and the other way round.
    """
    with opened(file) as backup:
        with explaining(file):
            header, counts = read_header(backup), check(backup)
        if print_secret:
            click.echo(_line(header))
            return
        settings, secret = _settings(header, over=over, keep_secret=keep_secret)
        with alone(settings.database_url) as connection:
            load(connection, backup, counts.total(), partial(watched, "Restoring"), replace=over)
            _commit(connection, settings.secret_file, secret)
    kept = ", without the secret" if keep_secret else ", and the secret"
    click.echo(f"Restored {counted(counts)}{kept}, as saved at {header.made_at}.", err=True)


def _line(header: Header) -> str:
    variable = "AUGU_SECRET_KEY" if len(header.secrets) == 1 else "AUGU_SECRET_KEYS"
    return f"{variable}={shlex.quote(','.join(header.secrets))}"


def _settings(header: Header, *, over: bool, keep_secret: bool) -> tuple[Settings, str | None]:
    """The settings, and the secret to write into its file, if any. Raises SettingsError or BackupError."""
    settings = environment.examined()
    if settings.keeps_data and settings.data_dir.exists() and settings.data_dir.stat().st_uid != os.geteuid():
        raise BackupError(f"another user owns {settings.data_dir}: run this as the user that runs the service")
    if keep_secret:
        return settings.with_secret(), None
    if settings.secret_keys:
        _compare(settings, header)
        return settings.with_secret(), None
    secret = _for_file(settings, header, over=over)
    return replace(settings, secret_keys=(secret,)).with_secret(), secret


def _compare(settings: Settings, header: Header) -> None:
    if not set(header.secrets) <= set(settings.secret_keys):
        raise BackupError(
            "the secret that is set is not the backup's, whose tokens would not work: set that one "
            f"(`augu-api restore --print-secret FILE`), {TO_KEEP}"
        )


def _for_file(settings: Settings, header: Header, *, over: bool) -> str:
    secret, path = header.secrets[0], settings.secret_file
    if header.secrets != (secret.strip(),):
        raise BackupError(
            "the backup's secret must be set in the environment (`augu-api restore --print-secret FILE`), " + TO_KEEP
        )
    if path.exists() and path.read_text().strip() != secret and not over:
        raise BackupError(f"{path} has another secret: --replace replaces it")
    return secret


def _commit(connection: Connection, path: Path, secret: str | None) -> None:
    """Commit, with the secret on the disk already; only its file's name changes afterwards."""
    if secret is None:
        connection.commit()
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(secret.encode())
        file.flush()
        os.fsync(file.fileno())
        connection.commit()
