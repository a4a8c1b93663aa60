"""Checks of who may call without a token, and of who is being refused."""

import math
import time
from collections.abc import Iterator

from limits.errors import StorageError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from augu_api import config
from augu_api.config import Settings
from augu_api.flags import Flag
from augu_api.operating.doctor.findings import Finding, ok, problem, warning
from augu_api.parsers import address, is_in
from augu_api.store import accounts
from augu_api.store import database as db
from augu_api.store.models import User
from augu_api.store.quotas import Quotas

LOCAL = ("127.0.0.1", "::1")
NEEDED = Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL


def keyless(settings: Settings) -> Iterator[Finding]:
    """Who acts without a token, whether that works, and whether it is more than is meant."""
    if settings.keyless is None:
        yield ok("keyless", "every request needs a token")
        return
    user, networks = settings.keyless.user, ", ".join(map(str, settings.keyless.networks))
    if not settings.deepstack:
        yield warning("keyless", "AUGU_DEEPSTACK_KEYLESS has no effect", "set AUGU_DEEPSTACK=1, or unset it")
        return
    found = f"EVERYONE in {networks} acts as the user {user} without a token, in DeepStack's protocol"
    yield warning("keyless", found, "unset AUGU_DEEPSTACK_KEYLESS if that is not what you want")
    if any(is_in(address(local), settings.keyless.networks) for local in LOCAL):
        found = "this machine is in these networks, and so is who calls through a proxy or tunnel that does not say so"
        yield warning("keyless", found, "leave it out, or have every proxy here send X-Forwarded-For")
    if not settings.proxies and "PORT" not in config.given():
        found = "only this machine can reach the service directly, and AUGU_PROXIES names no proxy to be believed"
        yield warning("keyless", found, "behind nginx on this machine, set AUGU_PROXIES=127.0.0.1")
    yield _keyless_user(settings, user)


def _keyless_user(settings: Settings, name: str) -> Finding:
    try:
        with db.open_existing(settings.database_url) as engine, Session(engine) as session:
            user = accounts.by_name(session, name)
    except SQLAlchemyError:
        user = None
    if user is None:
        fix = f"`augu-api users add {name} --grant IMAGES_OBJECTS --grant EXPERIMENTAL`"
        return problem("keyless", f"there is no user {name}, so requests without a token are refused", fix)
    if not user.may(NEEDED):
        fix = f"`augu-api users grant {name} IMAGES_OBJECTS EXPERIMENTAL`"
        return problem("keyless", f"the user {name} lacks a flag", fix)
    return ok("keyless", f"the user {name} exists and has the flags")


def refused(settings: Settings) -> Iterator[Finding]:
    """The users who are refused now because they call too often: their programs may not show it."""
    try:
        with db.open_existing(settings.database_url) as engine, Session(engine) as session:
            quotas = Quotas(engine, settings.ratelimit_storage, settings.ban_minutes)
            found = [finding for user in accounts.all_users(session) for finding in _refusals(user, quotas)]
    except (SQLAlchemyError, StorageError):  # which other checks report
        found = []
    yield from found or [ok("refused", "no user is over the quota")]


def _refusals(user: User, quotas: Quotas) -> Iterator[Finding]:
    quota = math.ceil(user.coefficient) * 2
    fix = f"`augu-api users quota {user.name} {quota}` sets a larger quota, or have it call less often"
    now = time.time()
    if user.banned_until is not None and now < user.banned_until:
        yield warning("refused", f"{user.name} is banned for another {user.banned_until - now:.0f} seconds", fix)
    elif count := quotas.refused(user):
        yield warning("refused", f"{user.name} has got {count} replies of 429 of {user.cap} requests a minute", fix)
