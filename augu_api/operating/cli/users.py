"""Users and their tokens: `augu-api users`, `augu-api tokens` and `augu-api demo`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from augu_api.flags import Flag
from augu_api.operating.cli.connection import connected
from augu_api.operating.cli.output import json_option, print_rows
from augu_api.store import accounts
from augu_api.store.models import User
from augu_api.tokens import issue

DEMO = "demo"
FLAG = click.Choice([flag.name or "" for flag in Flag], case_sensitive=False)

user_argument = click.argument("name", metavar="USER")
flags_argument = click.argument("flags", metavar="FLAG...", nargs=-1, required=True, type=FLAG)


@click.group()
def users() -> None:
    """Add, show and change users. USER is a name or an id."""


@users.command("add")
@click.argument("name")
@click.option("--id", type=int, help="For example a Discord snowflake; generated if not given.")
@click.option("--grant", "flags", metavar="FLAG", multiple=True, type=FLAG, help="In addition to the default flags.")
@click.option(
    "--coefficient", type=float, default=0.8, show_default=True, help="Allows 60 times as many requests a minute."
)
def add(name: str, id: int | None, flags: tuple[str, ...], coefficient: float) -> None:
    """Add a user and print the token."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.create(session, name, id=id, flags=_flags(flags), coefficient=coefficient)
        token = accounts.current_token(user)
    click.echo(f"Added {name} with the id {token.user_id}. The token:", err=True)
    click.echo(issue(backend.settings.secret_key, token))


@users.command("list")
@json_option
def list_all(*, as_json: bool) -> None:
    """List all users."""
    with connected() as backend, Session(backend.engine) as session:
        print_rows([_row(user) for user in accounts.all_users(session)], as_json=as_json)


@users.command("show")
@user_argument
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Show a user and what is left of the user's quota."""
    with connected() as backend, Session(backend.engine) as session:
        user = accounts.find(session, name)
        quota = backend.quotas.left(user)
        left = {"requests left": f"{quota.remaining} of {quota.limit}", "for": f"{quota.reset} s"}
        print_rows([_row(user) | left], as_json=as_json)


@users.command("grant")
@user_argument
@flags_argument
def grant(name: str, flags: tuple[str, ...]) -> None:
    """Give flags to a user."""
    with _changing(name) as user:
        user.flags |= _flags(flags)


@users.command("revoke")
@user_argument
@flags_argument
def revoke(name: str, flags: tuple[str, ...]) -> None:
    """Take flags from a user."""
    with _changing(name) as user:
        user.flags &= ~_flags(flags)


@users.command("quota")
@user_argument
@click.argument("coefficient", type=float)
def set_quota(name: str, coefficient: float) -> None:
    """Allow a user 60 x COEFFICIENT requests a minute."""
    with _changing(name) as user:
        accounts.set_coefficient(user, coefficient)


@users.command("ban")
@user_argument
@click.option("--minutes", type=click.IntRange(1, 2**31 - 1), help="For good if not given.")
def ban(name: str, minutes: int | None) -> None:
    """Ban a user."""
    with _changing(name) as user:
        accounts.ban(user, minutes and minutes * 60)


@users.command("unban")
@user_argument
def unban(name: str) -> None:
    """Lift a user's ban."""
    with _changing(name) as user:
        accounts.unban(user)


@users.command("remove")
@user_argument
def remove(name: str) -> None:
    """Remove a user for good."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        session.delete(accounts.find(session, name))
    click.echo(f"Removed {name}.", err=True)


@click.group()
def tokens() -> None:
    """Replace tokens."""


@tokens.command("regenerate")
@user_argument
def regenerate(name: str) -> None:
    """Print a new token for a user; the previous one stops working."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        token = accounts.regenerate(accounts.find(session, name))
    click.echo(issue(backend.settings.secret_key, token))


@click.command("demo")
def demo() -> None:
    """Create the user `demo` on the first start, and print how to call the API."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        try:
            user = accounts.find(session, DEMO)
        except accounts.AccountError:
            user = accounts.create(session, DEMO, flags=Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL)
        token = issue(backend.settings.secret_key, accounts.current_token(user))
    url = f"http://127.0.0.1:{backend.settings.port}"
    click.echo(
        f"Address:     {url}\nDemo token:  {token}\n\n"
        f"curl -H 'Authorization: Bearer {token}' -H 'Content-Type: image/png' \\\n"
        f"     --data-binary @examples/street.png {url}/images/classify/objects\n"
    )


@contextmanager
def _changing(name: str) -> Iterator[User]:
    """The user to change; afterwards the changes are saved and the user is shown."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.find(session, name)
        yield user
        row = _row(user)
    print_rows([row], as_json=False)


def _row(user: User) -> dict[str, Any]:
    until = user.banned_until
    return {
        "id": str(user.id),
        "name": user.name,
        "flags": ", ".join(user.flags.names),
        "coefficient": user.coefficient,
        "banned until": None if until is None else datetime.fromtimestamp(until, UTC).isoformat(" ", "seconds"),
    }


def _flags(names: tuple[str, ...]) -> Flag:
    return Flag(sum(Flag[name] for name in set(names)))
