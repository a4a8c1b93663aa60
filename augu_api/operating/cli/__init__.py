"""The command line: `augu-api`."""

from typing import Any

import click
from alembic.util import CommandError
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError

from augu_api import photos
from augu_api.config import SettingsError
from augu_api.detection import ModelUnavailable
from augu_api.operating.cli.database import db
from augu_api.operating.cli.detect import detect
from augu_api.operating.cli.doctor import doctor
from augu_api.operating.cli.training import evaluate, train
from augu_api.operating.cli.usage import usage
from augu_api.operating.cli.users import demo, tokens, users
from augu_api.operating.cli.weights import weights
from augu_api.photos import ImageRejected
from augu_api.store.accounts import AccountError
from augu_api.store.database import explain


class Commands(click.Group):
    """A group of commands. A foreseeable failure of any is one line on standard error, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, AccountError, ModelUnavailable, ImageRejected, CommandError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except (DBAPIError, StorageError) as error:
            raise click.ClickException(explain(error)) from error


@click.group(cls=Commands)
@click.version_option(package_name="augu-api")
def main() -> None:
    """Run the Augu API."""
    photos.configure()


weights.add_command(evaluate)
weights.add_command(train)
for command in (users, tokens, demo, weights, detect, doctor, usage, db):
    main.add_command(command)
