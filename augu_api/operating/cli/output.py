"""How commands print rows."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
from tabulate import tabulate

LONG = 10_000  # rows, which take about a second

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print the rows as JSON, or as a table."""
    if as_json:
        print_json(rows)
    else:
        table = tabulate(rows, headers="keys", disable_numparse=True)
        click.echo("\n".join(printable(line) for line in table.splitlines()))


def watched(label: str, rows: Iterable[Any], length: int) -> Iterator[Any]:
    """The rows, with a progress bar on standard error if there are many; where that is no terminal, just the label."""
    with click.progressbar(rows, length, label, hidden=length < LONG, file=sys.stderr) as bar:
        yield from bar


def print_json(value: Any) -> None:
    """Print the value as JSON, in ASCII."""
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    """Print one line on standard error."""
    click.echo(one_line(text), err=True)


def one_line(text: str) -> str:
    """The text in one line without control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text without control characters, which could command the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
