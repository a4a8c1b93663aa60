"""What the service answers: failures, and the objects, the quota and the account as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http.client import HTTPMessage

    from .photo import Prepared

NUMBER = re.compile(r"[0-9]{1,9}")


class CallFailed(Exception):
    """A call that failed.

    `status` is the status of the reply, or None without a reply; `error` is a short name and `message` a sentence.
    `details` has the reasons by field, and `retry_after` the whole seconds to wait, if the service sent them.
    """

    def __init__(
        self, status: int | None, error: str, message: str, details: Any = None, retry_after: int | None = None
    ) -> None:
        super().__init__(status, error, message, details, retry_after)
        self.status, self.error, self.message = status, error, message
        self.details, self.retry_after = details, retry_after

    def __str__(self) -> str:
        status = f"{self.status} " if self.status else ""
        return f"{status}{self.error}: {self.message} {self.reasons}".rstrip()

    @property
    def reasons(self) -> str:
        """`details` as text, such as "data: Not a PNG image."."""
        return _text(self.details)


@dataclass(frozen=True)
class Quota:
    """The caller's window of 60 seconds: requests allowed, requests left, and whole seconds until the window ends."""

    limit: int
    remaining: int
    reset: int


@dataclass(frozen=True)
class Item:
    """One object: its box in pixels from the top-left corner of the upright photo, and its score in percent."""

    name: str
    x: float
    y: float
    width: float
    height: float
    score: float


@dataclass(frozen=True)
class Objects:
    """The objects in a photo, best score first; `took` is how many milliseconds the detection took."""

    objects: tuple[Item, ...]
    took: int
    quota: Quota | None


@dataclass(frozen=True)
class Session:
    """The caller's account, which allows 60 * `ratelimit` requests in each window."""

    id: int
    flags: int
    flag_names: tuple[str, ...]
    ratelimit: float
    quota: Quota | None


@dataclass(frozen=True)
class Reply:
    status: int
    headers: HTTPMessage
    body: bytes

    def number(self, header: str) -> int | None:
        """The number in a header, or None."""
        found = NUMBER.fullmatch(self.headers.get(header, ""))
        return int(found[0]) if found else None

    @property
    def quota(self) -> Quota | None:
        limit, remaining, reset = (self.number(f"X-Ratelimit-{name}") for name in ("Limit", "Remaining", "Reset"))
        return None if limit is None or remaining is None or reset is None else Quota(limit, remaining, reset)


def _text(details: Any, depth: int = 3) -> str:
    """The texts in JSON, with the names of their fields; not those that are nested more deeply than in any reply."""
    if depth and isinstance(details, dict):
        return "; ".join(f"{name}: {_text(value, depth - 1)}" for name, value in details.items())
    if depth and isinstance(details, list):
        return " ".join(_text(value, depth - 1) for value in details)
    return "" if details is None or isinstance(details, (dict, list)) else str(details)


def objects_of(data: Any, reply: Reply, photo: Prepared) -> Objects:
    return Objects(tuple(_item(item, photo) for item in data["objects"]), int(data["took"]), reply.quota)


def _item(item: Any, photo: Prepared) -> Item:
    """The object, its box in pixels of the caller's upright photo."""
    x, y, width, height, score = (float(item[side]) for side in ("x", "y", "width", "height", "score"))
    if photo.size != photo.upright:
        (x, width), (y, height) = (
            _scaled(start, length, before, after)
            for start, length, before, after in zip((x, y), (width, height), photo.size, photo.upright)
        )
    return Item(str(item["name"]), x, y, width, height, score)


def _scaled(start: float, length: float, before: int, after: int) -> tuple[float, float]:
    """The start and length of a side in a photo of another size; it does not end outside."""
    end = min((start + length) * after / before, after)
    start = round(start * after / before, 2)
    return start, round(end - start, 2)


def session_of(data: Any, reply: Reply) -> Session:
    return Session(int(data["id"]), int(data["flags"]), texts(data["flagNames"]), float(data["ratelimit"]), reply.quota)


def texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
