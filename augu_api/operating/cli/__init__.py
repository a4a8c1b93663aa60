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
    "serve": "serve",
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

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command. click itself reports wrong usage, Ctrl-C and a closed pipe."""
        try:
            return super().main(*args, **extra)
        except Exception as error:
            import_module(f"{__name__}.failures").end(error)  # imports what most commands do without
            raise


@click.group(cls=Commands)
@click.version_option(package_name="augu-api")
def main() -> None:
    """Run the Augu API."""
    import_module(f"{__name__}.environment").point_to_service()
