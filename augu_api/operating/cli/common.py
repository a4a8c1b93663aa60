"""What several commands share: option types, and how rows are printed."""

import json
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print the rows as JSON or as a table; what a table holds cannot send the terminal control characters."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        table = tabulate(rows, headers="keys", disable_numparse=True)
        click.echo("".join(c if c.isprintable() or c == "\n" else "?" for c in table))
