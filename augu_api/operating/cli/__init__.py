"""The command line: `augu-api`."""

from typing import Any

import click
from alembic.util import CommandError
from flask import Flask
from flask.cli import FlaskGroup
from limits.errors import StorageError
from sqlalchemy.exc import DBAPIError

from augu_api import photos
from augu_api.app import create_app
from augu_api.config import Settings, SettingsError
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


class Commands(FlaskGroup):
    """A FlaskGroup for this application alone. A foreseeable failure is one line on standard error, not a traceback."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            create_app=_create_app,
            add_default_commands=False,
            add_version_option=False,
            load_dotenv=False,
            set_debug_flag=False,
            **kwargs,
        )
        self.params = [param for param in self.params if param.name not in ("app", "env_file", "debug")]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, AccountError, ModelUnavailable, ImageRejected, CommandError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except (DBAPIError, StorageError) as error:
            raise click.ClickException(explain(error)) from error


def _create_app() -> Flask:
    return create_app(Settings.from_env())


@click.group(cls=Commands)
@click.version_option(package_name="augu-api")
def main() -> None:
    """Run the Augu API."""
    photos.configure()


weights.add_command(evaluate)
weights.add_command(train)
for command in (users, tokens, demo, weights, detect, doctor, usage, db):
    main.add_command(command)
