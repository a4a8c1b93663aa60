"""The gates in front of a view, in their order: token, ban, room for the body, slot, rate limit, flags."""

import math
import re
import time
from collections.abc import Callable, Hashable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urljoin
from wsgiref.types import WSGIEnvironment

from flask import Flask, Response, g
from limits.errors import StorageError
from sqlalchemy.orm import Session

from augu_api import tokens
from augu_api.flags import NO_FLAGS, Flag
from augu_api.store import accounts
from augu_api.store.models import User
from augu_api.store.quotas import Quota, QuotaExceeded
from augu_api.web.body import MAX_BODY, request
from augu_api.web.envelope import Failure, Refused
from augu_api.web.rooms import Room
from augu_api.web.service import service

View = Callable[..., Response]
HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
ROOM = "augu_api.room"  # the room that a request holds, in its WSGI environment


def bearer_token() -> str | None:
    """The token of the Authorization header, if it has one."""
    authorization = request.authorization
    return authorization.token if authorization and authorization.type == "bearer" else None


@dataclass(frozen=True)
class Gates:
    """A decorator: only requests that pass these gates reach the view. Raises Refused, QueueFull.

    flags: those that the user needs
    slot: whether the view uses the detector. The body is read before the slot is taken, so that a slow client holds
        none, and the slot is taken before the request is counted, so that a request that finds none is not counted
    token: finds the token in the request
    keyless: finds the user of a request without one
    """

    flags: Flag = NO_FLAGS
    slot: bool = False
    token: Callable[[], str | None] = bearer_token
    keyless: Callable[[], User | None] = lambda: None

    def __call__(self, view: View) -> View:
        """Gate `view`."""

        @wraps(view)
        def gated(**arguments: Any) -> Response:
            user = g.user = self._user()
            _refuse_banned(user)
            if self.slot:
                service.admission.check(user.id)
                if self._may_send(user):
                    receive(user.id)
            with service.admission.slot(user.id) if self.slot else nullcontext():
                _count(user)
                _refuse_without(self.flags, user)
                if self.slot:
                    receive(user.id)  # if the window has just ended
                return view(**arguments)

        gated.gates = self  # type: ignore[attr-defined]  # read by docs/openapi.py
        return gated

    def _user(self) -> User:
        token = self.token()
        user = self.keyless() if token is None else None
        user = user or _find(token)
        if user is None:
            details = _why_unauthorized() if self.token is bearer_token else None
            raise Refused(Failure(401, "token", details=details))
        return user

    def _may_send(self, user: User) -> bool:
        """Whether the body of a request is worth reading. The gates themselves come later, in their order."""
        if not user.may(self.flags):
            return False
        g.quota = service.quotas.left(user)
        return bool(g.quota.remaining)


def receive(caller: Hashable) -> None:
    """Read the body, unless it is there, within the caller's room; raises QueueFull. It is room of one caller only."""
    environ = request.environ
    if ROOM in environ:
        environ[ROOM].give_to(caller)
    else:
        most = request.max_content_length or MAX_BODY
        length = request.content_length if "HTTP_TRANSFER_ENCODING" not in environ else most
        environ[ROOM] = service.admission.rooms.take(caller, min(length or 0, most))
        request.receive()


def room_of(environ: WSGIEnvironment) -> Room | None:
    """The room that a request holds; whoever sends the reply releases it when that has left."""
    return environ.get(ROOM)


def register(app: Flask) -> None:
    """Add the X-Ratelimit headers to each reply to an authenticated request, and hold room for each reply."""
    app.after_request(_add_quota)
    app.after_request(_hold_reply)


def _find(text: str | None) -> User | None:
    """The user whose token this is."""
    try:
        token = tokens.read(service.settings.secret_keys, text or "")
    except tokens.BadSignature:
        token = tokens.NO_TOKEN  # looked up anyway, so that the response time does not reveal what is wrong
    except tokens.InvalidToken:
        return None
    with Session(service.lookups) as session:
        return accounts.find_by_token(session, token)


def _why_unauthorized() -> dict[str, list[str]] | None:
    """What is wrong with the header. Nothing is said of a token that is not valid."""
    if not request.headers.get("Authorization", "").strip():
        return {"authorization": ["Missing. Send the header Authorization: Bearer TOKEN, with your token as TOKEN."]}
    if not bearer_token():
        return {"authorization": ["Not of the form Bearer TOKEN. Send the word Bearer, a space and your token."]}
    return None


def _refuse_banned(user: User) -> None:
    now = time.time()
    if not user.is_banned(now):
        return
    if Flag.BANNED in user.flags or user.banned_until is None:
        raise Refused(Failure(403, "ban", "You are banned."))
    seconds = math.ceil(user.banned_until - now)
    raise Refused(Failure(403, "ban", f"You are banned for another {seconds} seconds.", retry_after=seconds))


def _count(user: User) -> None:
    try:
        g.quota = service.quotas.count(user)
    except QuotaExceeded as exceeded:
        g.quota = exceeded.quota
        seconds = max(1, g.quota.reset)
        message = f"You have made too many requests. Please wait {seconds} seconds."
        raise Refused(Failure(429, "quota", message, retry_after=seconds)) from None


def _refuse_without(flags: Flag, user: User) -> None:
    if not user.may(flags):
        message = (
            "You do not have the flag required to access this endpoint. "
            f"Please refer to the documentation at {_docs_url()} for more information."
        )
        lacking = ", ".join((flags & ~user.flags).names)
        details = {"flags": [f"Missing: {lacking}. The operator of this service can grant what is missing."]}
        raise Refused(Failure(403, "flags", message, details))


def _docs_url() -> str:
    """The address of the documentation. A path is one on the host that the request names, if that is a plain name."""
    base = f"{request.scheme}://{request.host}" if HOST.fullmatch(request.host) else ""
    return urljoin(base, service.settings.docs_url)


def _add_quota(response: Response) -> Response:
    if quota := g.get("quota"):
        _put_quota(response, quota)
    elif user := g.get("user"):  # refused before the request was counted
        with suppress(StorageError):  # the reply itself stands
            _put_quota(response, service.quotas.left(user))
    return response


def _hold_reply(response: Response) -> Response:
    """From here on, the reply takes memory, and the body does not."""
    if room := room_of(request.environ):
        room.resize(response.calculate_content_length() or 0)
    return response


def _put_quota(response: Response, quota: Quota) -> None:
    response.headers["X-Ratelimit-Limit"] = str(quota.limit)
    response.headers["X-Ratelimit-Remaining"] = str(quota.remaining)
    response.headers["X-Ratelimit-Reset"] = str(quota.reset)
