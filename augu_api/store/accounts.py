"""Create, find and change users. Each function takes a Session, which the caller commits."""

import random
import re
import time

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from augu_api.flags import DEFAULT_FLAGS, NO_FLAGS, Flag
from augu_api.store.models import User
from augu_api.tokens import MAX_ID, Token

NAME = re.compile(r"(?![0-9]+$)(?!-)[a-z0-9_.@+-]{1,64}", re.ASCII | re.IGNORECASE)
ALIKE = str.maketrans("I10", "llo")  # a capital i and a one look like an l, a zero like an o
DISCORD_EPOCH = 1_420_070_400_000  # the start of 2015 in milliseconds, from which snowflakes count
MAX_COEFFICIENT = 1_000_000.0
BY_TOKEN = select(User).where(User.id == bindparam("user_id"), User.issued_at == bindparam("issued_at"))  # built once


class AccountError(ValueError):
    """An account cannot be created, found or changed as asked; the message says why."""


def create(
    session: Session, name: str, *, id: int | None = None, flags: Flag = NO_FLAGS, coefficient: float = 0.8
) -> User:
    """Add a user with the default flags and the given ones. Raises AccountError."""
    if id is not None and not 0 < id <= MAX_ID:
        raise AccountError("An id is a whole number from 1 to 2^63 - 1.")
    issued_at = _milliseconds()
    id = id or (issued_at - DISCORD_EPOCH) << 22 | random.SystemRandom().getrandbits(22)
    _check_name(session, name)
    if session.get(User, id):
        raise AccountError(f"There is a user with the id {id} already.")
    user = User(id=id, name=name, flags=DEFAULT_FLAGS | flags, issued_at=issued_at)
    set_coefficient(user, coefficient)
    session.add(user)
    session.flush()
    return user


def find(session: Session, id_or_name: str) -> User:
    """The user with that id or name, locked for a change until the session ends. Raises AccountError."""
    is_id = re.fullmatch("[0-9]{1,19}", id_or_name) and int(id_or_name) <= MAX_ID
    condition = User.id == int(id_or_name) if is_id else User.name == id_or_name
    is_text = id_or_name.isprintable()  # else it may have bytes that a database cannot compare
    found = session.scalar(select(User).where(condition).with_for_update()) if is_text else None
    if found is None:
        raise AccountError(f"There is no user {id_or_name}.")
    return found


def rename(session: Session, user: User, name: str) -> None:
    """Give the user another name; the token stays valid. Raises AccountError."""
    _check_name(session, name, besides=user.id)
    user.name = name


def _check_name(session: Session, name: str, besides: int = 0) -> None:
    """Raise AccountError if this cannot be a new name, or if it looks like that of a user other than `besides`.

    Only new names are checked, so users with names that were allowed in the past keep them.
    """
    if not NAME.fullmatch(name):
        message = "A name has 1 to 64 letters from a to z or A to Z, digits or . _ @ + -, does not start with -"
        raise AccountError(f"{message}, and is not a number.")
    for taken in session.scalars(select(User.name).where(User.id != besides)):
        if taken == name:
            raise AccountError(f"There is a user {name} already.")
        if taken.lower() == name.lower() or _shape(taken) == _shape(name):
            raise AccountError(f"There is a user {taken} already, and {name} looks like that name.")


def _shape(name: str) -> str:
    """The same text for names that are hard to tell apart."""
    return name.translate(ALIKE).lower()


def all_users(session: Session) -> list[User]:
    """All users, by name."""
    return list(session.scalars(select(User).order_by(User.name)))


def find_by_token(session: Session, token: Token) -> User | None:
    """The user whose current token this is, if any."""
    return session.scalar(BY_TOKEN, token._asdict())


def by_name(session: Session, name: str) -> User | None:
    """The user of that name, if any."""
    return session.scalar(select(User).where(User.name == name))


def set_coefficient(user: User, coefficient: float) -> None:
    """Set the cap to `coefficient * 60` requests a window. Raises AccountError."""
    if not 0 <= coefficient <= MAX_COEFFICIENT:
        raise AccountError(f"A coefficient is a number from 0 to {MAX_COEFFICIENT:.0f}.")
    user.coefficient = coefficient


def ban(user: User, seconds: float | None = None) -> None:
    """Ban the user for that long, or permanently."""
    if seconds is None:
        user.flags |= Flag.BANNED
    else:
        user.banned_until = time.time() + seconds


def unban(user: User) -> None:
    """Lift both kinds of ban."""
    user.flags &= ~Flag.BANNED
    user.banned_until = None


def regenerate(user: User) -> Token:
    """The user's new token; the old one stops working when the session commits."""
    user.issued_at = max(_milliseconds(), user.issued_at + 1)
    return current_token(user)


def current_token(user: User) -> Token:
    """The user's current token."""
    return Token(user.id, user.issued_at)


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
