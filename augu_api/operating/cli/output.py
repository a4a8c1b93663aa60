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
    """Print the rows as JSON, or as a table without control characters, which could command the terminal."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = tabulate(rows, headers="keys", disable_numparse=True)
        click.echo("".join(c if c.isprintable() or c == "\n" else "?" for c in table))


def watched(label: str, rows: Iterable[Any], length: int) -> Iterator[Any]:
    """The rows, with a progress bar on standard error if there are many; where that is no terminal, just the label."""
    with click.progressbar(rows, length, label, hidden=length < LONG, file=sys.stderr) as bar:
        yield from bar
