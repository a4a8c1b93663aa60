"""`augu-api usage`."""

import gzip
import re
import sys
import zlib
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import click
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from augu_api.operating.cli import environment
from augu_api.operating.cli.output import json_option, print_rows, say
from augu_api.operating.cli.paths import EXISTING_LOG
from augu_api.operating.usage import Usage, lines, plain
from augu_api.store import accounts, database

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """A point in time, in UTC unless it names a zone, or one a number of minutes, hours or days ago."""
    if text is None:
        return None
    try:
        if ago := re.fullmatch("([0-9]{1,5})([mhd])", text):
            return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text} is not a time: write 24h or 7d, or 2026-11-24 or 2026-11-24T08:30."
        raise click.BadParameter(message) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command("usage")
@click.argument("logs", metavar="[LOG]...", nargs=-1, type=EXISTING_LOG)
@click.option("--since", metavar="TIME", callback=_moment, help="24h, 7d, 2026-11-24 or 2026-11-24T08:30 (UTC).")
@json_option
def usage(logs: tuple[str, ...], since: datetime | None, *, as_json: bool) -> None:
    """Show each user's requests, refusals, programs and latency, from the service's LOG or from standard input (-).

    A LOG that gzip has compressed is read as well.
    Lines that are not request log entries are skipped. Percentiles are of successful requests, accurate to 2.5 %.
    """
    if not logs and sys.stdin.isatty():
        raise click.UsageError("Name a log, or pipe one in: journalctl -o cat -u augu-api | augu-api usage")
    used = Usage(since)
    for log in logs or ("-",):
        with click.open_file(log, "rb") as file:
            _add(used, file, log)
    names = _names()
    rows = used.rows(names)
    print_rows(rows if as_json else [{key: _cell(row[key]) for key in row} for row in rows], as_json=as_json)
    for name, count in used.over_quota(names):
        say(f"{name} got {count} replies of 429: `augu-api users quota {name} …` sets another quota.")
    say(f"Skipped {used.skipped} of {used.read} lines that are not request log entries.")


def _add(used: Usage, file: IO[bytes], log: str) -> None:
    """Count the lines of a log, and of what can be read of a broken one."""
    try:
        used.add(lines(plain(file)))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        say(f"{log} is damaged, and read up to there: {error}")


def _cell(value: Any) -> Any:
    """A table's cell, in which counts by name are one text."""
    return ", ".join(f"{name}: {count}" for name, count in value.items()) if isinstance(value, dict) else value


def _names() -> dict[int, str]:
    """The users' names by id; empty where the log is read on a machine without the database."""
    settings = environment.examined()
    try:
        with database.open_existing(settings.database_url) as engine, Session(engine) as session:
            return {user.id: user.name for user in accounts.all_users(session)}
    except SQLAlchemyError:
        say("Users are shown by id: there is no database here to look up their names.")
        return {}
