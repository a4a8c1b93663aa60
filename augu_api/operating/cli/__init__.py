"""The command line: `augu-api`. It imports a command's module only when that command is run."""

from importlib import import_module
from typing import Any

import click

MODULES = {
    "backup": "backup",
    "db": "database",
    "demo": "users",
    "detect": "detect",
    "doctor": "doctor",
    "restore": "restore",
    "tokens": "users",
    "usage": "usage",
    "users": "users",
    "weights": "weights",
}
"""The module of this package that has each command."""


class Commands(click.Group):
    """A group of commands. A foreseeable failure of any is one line on standard error, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command of this name, or None."""
        if cmd_name not in MODULES:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{MODULES[cmd_name]}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if message := _message(error):
                raise click.ClickException(message) from error
            raise


def _message(error: Exception) -> str | None:
    """What to say about a foreseeable failure; None about any other."""
    from augu_api.operating.cli import failures  # noqa: PLC0415 - imports what most commands do without

    return failures.message(error)


@click.group(cls=Commands)
@click.version_option(package_name="augu-api")
def main() -> None:
    """Run the Augu API."""
