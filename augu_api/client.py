"""A Python client of Augu API. This file needs only the standard library, and can be copied into a project.

    client = Client("http://127.0.0.1:8000", token)
    for item in client.objects("photo.png", min_score=60).objects:
        print(item.name, item.score, item.x, item.y, item.width, item.height)

Every method raises CallFailed unless it gets the reply 200.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
    responses,
)
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

OBJECTS = "/images/classify/objects"
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xae\x42\x60\x82"
MAX_JSON = 1 << 20  # bytes
MAX_PNG = 1 << 25  # bytes; a picture of 3072 x 3072 pixels is 28 MB before compression
URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750
NUMBER = re.compile(r"[0-9]{1,9}")
RETRIED = (429, 503)

T = TypeVar("T")


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
        details = f" {json.dumps(self.details)}" if self.details else ""
        return f"{status}{self.error}: {self.message}{details}"


@dataclass(frozen=True)
class Quota:
    """The caller's window of 60 seconds: requests allowed, requests left, and whole seconds until the window ends."""

    limit: int
    remaining: int
    reset: int


@dataclass(frozen=True)
class Item:
    """One object: its box in pixels from the top-left corner of the stored image, and its score in percent."""

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


class Picture(Protocol):
    """An image of Pillow, or another object with the same `save` method."""

    def save(self, fp: BytesIO, format: str) -> object:
        """Write the image to a file, in the format of this name."""


Photo = bytes | str | PathLike[str] | Picture
"""The bytes of a PNG, the path of a PNG, or an image of Pillow, which is sent as a PNG."""


@dataclass(frozen=True)
class _Reply:
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


@dataclass(frozen=True)
class Client:
    """A client of the service at `url`. Threads can share one, because each call opens its own connection.

    A reply of 429 or 503 is retried after the seconds in its Retry-After, at most `retries` times, and only if the
    retry starts within `max_wait` seconds of the call. Other failures are not retried, nor is a ban.
    `timeout` is how many seconds to wait for the next byte. Redirects are not followed, as only this address may see
    the token.
    """

    url: str
    token: str = field(repr=False)
    _: KW_ONLY
    retries: int = 3
    max_wait: float = 90.0
    timeout: float = 30.0
    user_agent: str = "augu-api-client"
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        if not URL.fullmatch(self.url) or urlsplit(self.url).port == 0:
            raise ValueError("The url must look like https://host:port and contain no password.")
        if not TOKEN.fullmatch(self.token):  # http.client would show it in its message
            raise ValueError("The token is empty or contains an invalid character.")

    def objects(
        self,
        photo: Photo,
        *,
        min_score: float | None = None,
        limit: int | None = None,
        names: str | Iterable[str] | None = None,
    ) -> Objects:
        """Find the objects in a photo. The service has its own defaults for the parameters.

        Raises CallFailed, and ValueError if the photo is a file but not a PNG.
        """
        reply = self._detect(photo, "application/json", MAX_JSON, min_score=min_score, limit=limit, names=names)
        return self._parsed(reply, _objects)

    def annotated(
        self,
        photo: Photo,
        *,
        min_score: float | None = None,
        limit: int | None = None,
        names: str | Iterable[str] | None = None,
        max_side: int | None = None,
    ) -> bytes:
        """The photo as a PNG with boxes drawn, at most `max_side` pixels wide and high. Raises as `objects` does."""
        parameters = {"min_score": min_score, "limit": limit, "names": names, "max_side": max_side}
        reply = self._detect(photo, "image/png", MAX_PNG, **parameters)
        if not (reply.body.startswith(PNG_SIGNATURE) and reply.body.endswith(PNG_END)):
            raise self._unexpected(reply.status, "this is not a whole PNG")
        return reply.body

    def session(self) -> Session:
        """The caller's account. Raises CallFailed."""
        return self._parsed(self._call("GET", "/session", {}), _session)

    def names(self) -> tuple[str, ...]:
        """The names of the categories that the service detects. Raises CallFailed."""
        return self._parsed(self._call("GET", f"{OBJECTS}/names", {}), lambda data, _: _texts(data["names"]))

    def _detect(self, photo: Photo, accept: str, max_bytes: int, **parameters: Any) -> _Reply:
        names = parameters["names"]
        if names is not None and not isinstance(names, str):
            parameters["names"] = ",".join(names)
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        headers = {"Content-Type": "image/png", "Accept": accept}
        return self._call("POST", f"{OBJECTS}?{query}", headers, _png_of(photo), max_bytes)

    def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None, max_bytes: int = MAX_JSON
    ) -> _Reply:
        """The reply with status 200, after retries if necessary."""
        retries, deadline = self.retries, self.clock() + self.max_wait
        while (reply := self._once(method, path, headers, body, max_bytes)).status != 200:
            wait = reply.number("Retry-After") if reply.status in RETRIED else None
            if wait is None or retries <= 0 or self.clock() + wait > deadline:
                raise self._failure(reply)
            retries -= 1
            self.sleep(wait)
        return reply

    def _once(self, method: str, path: str, headers: dict[str, str], body: bytes | None, max_bytes: int) -> _Reply:
        address = urlsplit(self.url)
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=self.timeout)
        own = {"Authorization": f"Bearer {self.token}", "User-Agent": self.user_agent}
        try:
            connection.connect()
            # the service may refuse before the whole body is sent
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, address.path.rstrip("/") + path, body, headers | own)
            with connection.getresponse() as response:
                return _Reply(response.status, response.headers, self._read(response, max_bytes))
        except OSError as error:
            raise CallFailed(None, "No reply", f"{self.url} did not answer: {error}") from None
        except HTTPException:  # its message would quote the server
            raise CallFailed(None, "No reply", f"{self.url} sent an incomplete reply, or none in HTTP.") from None
        finally:
            connection.close()

    def _read(self, response: HTTPResponse, max_bytes: int) -> bytes:
        """The reply's body, of which no more is read than is allowed."""
        body = response.read(max_bytes + 1) if (response.length or 0) <= max_bytes else None
        if body is None or len(body) > max_bytes:
            raise self._unexpected(response.status, f"this is more than {max_bytes} bytes")
        if response.length:
            raise IncompleteRead(body, response.length)
        return body

    def _envelope(self, reply: _Reply) -> dict[str, Any]:
        """The reply's JSON object; if a proxy echoes the token, it is removed. Raises CallFailed."""
        with suppress(ValueError, RecursionError):
            body = json.loads(reply.body.replace(self.token.encode(), b"..."))
            if isinstance(body, dict) and body.get("statusCode") == reply.status:
                return body
        why = "this is a redirect, which is not followed" if 300 <= reply.status < 400 else "this is not its JSON"
        raise self._unexpected(reply.status, why, reply.number("Retry-After"))

    def _parsed(self, reply: _Reply, parse: Callable[[Any, _Reply], T]) -> T:
        try:
            return parse(self._envelope(reply)["data"], reply)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            raise self._unexpected(reply.status, "this is not its data") from None

    def _failure(self, reply: _Reply) -> CallFailed:
        body = self._envelope(reply)
        error, message = str(body.get("error")), str(body.get("message"))
        return CallFailed(reply.status, error, message, body.get("details"), reply.number("Retry-After"))

    def _unexpected(self, status: int, why: str, retry_after: int | None = None) -> CallFailed:
        message = f"{self.url} does not answer as Augu API does: {why}."
        return CallFailed(status, responses.get(status, "Unknown"), message, retry_after=retry_after)


def _png_of(photo: Photo) -> bytes:
    if isinstance(photo, str | PathLike):
        photo = Path(photo).read_bytes()
    elif not isinstance(photo, bytes):
        file = BytesIO()
        photo.save(file, "PNG")
        photo = file.getvalue()
    if not photo.startswith(PNG_SIGNATURE):
        raise ValueError(
            "Not a PNG, the only format that the service accepts. Open it with Pillow and pass that image."
        )
    return photo


def _objects(data: Any, reply: _Reply) -> Objects:
    items = (
        Item(str(item["name"]), *(float(item[side]) for side in ("x", "y", "width", "height", "score")))
        for item in data["objects"]
    )
    return Objects(tuple(items), int(data["took"]), reply.quota)


def _session(data: Any, reply: _Reply) -> Session:
    return Session(
        int(data["id"]), int(data["flags"]), _texts(data["flagNames"]), float(data["ratelimit"]), reply.quota
    )


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
