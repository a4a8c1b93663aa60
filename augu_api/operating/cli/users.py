"""Users and their tokens: `augu-api users`, `augu-api tokens` and `augu-api demo`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from augu_api.config import CHECKOUT, EXAMPLE
from augu_api.flags import Flag
from augu_api.operating.cli.connection import Backend, connected
from augu_api.operating.cli.output import json_option, print_json, print_rows, say
from augu_api.store import accounts
from augu_api.store.models import User
from augu_api.tokens import Token, issue

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
@json_option
def add(name: str, id: int | None, flags: tuple[str, ...], coefficient: float, *, as_json: bool) -> None:
    """Add a user and print the token."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.create(session, name, id=id, flags=_flags(flags), coefficient=coefficient)
        _print_token(backend, user, accounts.current_token(user), as_json=as_json)
        added = f"Added {name} with the id {user.id}."
    say(added)


@users.command("list")
@json_option
def list_all(*, as_json: bool) -> None:
    """List all users."""
    with connected() as backend, Session(backend.engine) as session:
        found = accounts.all_users(session)
        print_rows([_fields(user) if as_json else _row(user) for user in found], as_json=as_json)


@users.command("show")
@user_argument
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Show a user and what is left of the user's quota."""
    with connected() as backend, Session(backend.engine) as session:
        user = accounts.find(session, name)
        quota = backend.quotas.left(user)
        if as_json:
            numbers = {"limit": quota.limit, "remaining": quota.remaining, "reset": quota.reset}
            print_json(_fields(user) | {"quota": numbers})
        else:
            texts = {"requests left": f"{quota.remaining} of {quota.limit}", "for": f"{quota.reset} s"}
            print_rows([_row(user) | texts], as_json=False)


@users.command("rename")
@user_argument
@click.argument("new")
@json_option
def rename(name: str, new: str, *, as_json: bool) -> None:
    """Give a user the name NEW. The token, the quota and the bans stay."""
    with _changing(name, as_json=as_json) as (session, user):
        accounts.rename(session, user, new)


@users.command("grant")
@user_argument
@flags_argument
@json_option
def grant(name: str, flags: tuple[str, ...], *, as_json: bool) -> None:
    """Give flags to a user."""
    with _changing(name, as_json=as_json) as (_, user):
        user.flags |= _flags(flags)


@users.command("revoke")
@user_argument
@flags_argument
@json_option
def revoke(name: str, flags: tuple[str, ...], *, as_json: bool) -> None:
    """Take flags from a user."""
    with _changing(name, as_json=as_json) as (_, user):
        user.flags &= ~_flags(flags)


@users.command("quota")
@user_argument
@click.argument("coefficient", type=float)
@json_option
def set_quota(name: str, coefficient: float, *, as_json: bool) -> None:
    """Allow a user 60 x COEFFICIENT requests a minute."""
    with _changing(name, as_json=as_json) as (_, user):
        accounts.set_coefficient(user, coefficient)


@users.command("ban")
@user_argument
@click.option("--minutes", type=click.IntRange(1, 2**31 - 1), help="For good if not given.")
@json_option
def ban(name: str, minutes: int | None, *, as_json: bool) -> None:
    """Ban a user."""
    with _changing(name, as_json=as_json) as (_, user):
        accounts.ban(user, minutes and minutes * 60)


@users.command("unban")
@user_argument
@json_option
def unban(name: str, *, as_json: bool) -> None:
    """Lift a user's ban."""
    with _changing(name, as_json=as_json) as (_, user):
        accounts.unban(user)


@users.command("remove")
@user_argument
@json_option
def remove(name: str, *, as_json: bool) -> None:
    """Remove a user for good."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.find(session, name)
        session.delete(user)
    say(f"Removed {user.name} with the id {user.id}.")
    if as_json:
        print_json(_fields(user))


@click.group()
def tokens() -> None:
    """Replace tokens."""


@tokens.command("regenerate")
@user_argument
@json_option
def regenerate(name: str, *, as_json: bool) -> None:
    """Print a new token for a user; the previous one stops working."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.find(session, name)
        _print_token(backend, user, accounts.regenerate(user), as_json=as_json)


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
    photo = shlex.quote(f"@{'examples/street.png' if CHECKOUT else EXAMPLE}")
    click.echo(
        f"Address:     {url}\nDemo token:  {token}\n\n"
        f"curl -H 'Authorization: Bearer {token}' -H 'Content-Type: image/png' \\\n"
        f"     --data-binary {photo} {url}/images/classify/objects\n"
    )


@contextmanager
def _changing(name: str, *, as_json: bool) -> Iterator[tuple[Session, User]]:
    """The session and the user to change; afterwards the changes are saved and the user is shown."""
    with connected() as backend, Session(backend.engine) as session, session.begin():
        user = accounts.find(session, name)
        yield session, user
        session.flush()
        changed = _fields(user) if as_json else _row(user)
    if as_json:
        print_json(changed)
    else:
        print_rows([changed], as_json=False)


def _print_token(backend: Backend, user: User, token: Token, *, as_json: bool) -> None:
    """Print the token before it is saved: one that cannot be printed must not replace another."""
    text = issue(backend.settings.secret_key, token)
    if as_json:
        print_json(_fields(user) | {"token": text})
    else:
        click.echo(text)


def _fields(user: User) -> dict[str, Any]:
    """A user in JSON, as docs/operating.md describes it. An id is text, because jq and JavaScript would round it."""
    until = user.banned_until
    return {
        "id": str(user.id),
        "name": user.name,
        "flags": user.flags.names,
        "coefficient": user.coefficient,
        "banned_until": None if until is None else datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds"),
    }


def _row(user: User) -> dict[str, Any]:
    """A user as a row of a table."""
    row = _fields(user)
    until = row.pop("banned_until")
    return row | {"flags": ", ".join(row["flags"]), "banned until": until and until.replace("T", " ")}


def _flags(names: tuple[str, ...]) -> Flag:
    return Flag(sum(Flag[name] for name in set(names)))
