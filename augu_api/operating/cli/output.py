"""How commands print rows."""

import json
from typing import Any

import click
from tabulate import tabulate

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print the rows as JSON, or as a table without control characters, which could command the terminal."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = tabulate(rows, headers="keys", disable_numparse=True)
        click.echo("".join(c if c.isprintable() or c == "\n" else "?" for c in table))
