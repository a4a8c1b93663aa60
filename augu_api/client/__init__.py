"""A Python client of Augu API, for Python 3.9 and later. This folder can be copied into a project.

    client = Client("http://127.0.0.1:8000", token)
    for item in client.objects("photo.jpg", min_score=60).objects:
        print(item.name, item.score, item.x, item.y, item.width, item.height)

Every method raises CallFailed unless it gets the reply 200, and InvalidPhoto if a photo cannot be sent. In a coroutine,
await asyncio.to_thread(client.objects, photo). Only photos other than PNG, or that must be turned or made smaller, need
a package: Pillow.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
    responses,
)
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from .photo import MAX_DECODED, PNG_SIGNATURE, InvalidPhoto, Photo, Prepared, prepare
from .replies import CallFailed, Item, Objects, Quota, Reply, Session, objects_of, session_of, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CallFailed", "Client", "InvalidPhoto", "Item", "Objects", "Photo", "Quota", "Session"]

OBJECTS = "/images/classify/objects"
PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
MAX_JSON = 1 << 20  # bytes
MAX_PNG = 1 << 25  # bytes; a picture of 3072 x 3072 pixels is 28 MB before compression
URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750
RETRIED = (429, 503)

T = TypeVar("T")


@dataclass(frozen=True)
class Client:
    """A client of the service at `url`. Threads can share one, because each call opens its own connection.

    A reply of 429 or 503 is retried after the seconds in its Retry-After, at most `retries` times, and only if the
    retry starts within `max_wait` seconds of the call. Other failures are not retried, nor is a ban.
    `timeout` is how many seconds to wait for the next byte. Redirects are not followed, as only this address may see
    the token.

    A photo is turned upright as its EXIF says. One that must be decoded may have `max_decoded` pixels, and is sent with
    at most 1280 * 1280 of them; boxes refer to the caller's photo all the same.
    """

    url: str
    token: str = field(repr=False)
    retries: int = 3
    max_wait: float = 90.0
    timeout: float = 30.0
    user_agent: str = "augu-api-client"
    max_decoded: int = MAX_DECODED
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

        Raises CallFailed and InvalidPhoto.
        """
        prepared = prepare(photo, self.max_decoded)
        reply = self._detect(prepared, "application/json", MAX_JSON, min_score=min_score, limit=limit, names=names)
        return self._parsed(reply, lambda data, reply: objects_of(data, reply, prepared))

    def annotated(
        self,
        photo: Photo,
        *,
        min_score: float | None = None,
        limit: int | None = None,
        names: str | Iterable[str] | None = None,
        max_side: int | None = None,
    ) -> bytes:
        """The photo as it is sent, as a PNG with boxes drawn, at most `max_side` pixels wide and high.

        Raises CallFailed and InvalidPhoto.
        """
        parameters = {"min_score": min_score, "limit": limit, "names": names, "max_side": max_side}
        reply = self._detect(prepare(photo, self.max_decoded), "image/png", MAX_PNG, **parameters)
        if not (reply.body.startswith(PNG_SIGNATURE) and reply.body.endswith(PNG_END)):
            raise self._unexpected(reply.status, "this is not a whole PNG")
        return reply.body

    def session(self) -> Session:
        """The caller's account. Raises CallFailed."""
        return self._parsed(self._call("GET", "/session", {}), session_of)

    def names(self) -> tuple[str, ...]:
        """The names of the categories that the service detects. Raises CallFailed."""
        return self._parsed(self._call("GET", f"{OBJECTS}/names", {}), lambda data, _: texts(data["names"]))

    def _detect(self, photo: Prepared, accept: str, max_bytes: int, **parameters: Any) -> Reply:
        names = parameters["names"]
        if names is not None and not isinstance(names, str):
            parameters["names"] = ",".join(names)
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        headers = {"Content-Type": "image/png", "Accept": accept}
        return self._call("POST", f"{OBJECTS}?{query}", headers, photo.png, max_bytes)

    def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None, max_bytes: int = MAX_JSON
    ) -> Reply:
        """The reply with status 200, after retries if necessary."""
        retries, deadline = self.retries, self.clock() + self.max_wait
        while (reply := self._once(method, path, headers, body, max_bytes)).status != 200:
            wait = reply.number("Retry-After") if reply.status in RETRIED else None
            if wait is None or retries <= 0 or self.clock() + wait > deadline:
                raise self._failure(reply)
            retries -= 1
            self.sleep(wait)
        return reply

    def _once(self, method: str, path: str, headers: dict[str, str], body: bytes | None, max_bytes: int) -> Reply:
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
                return Reply(response.status, response.headers, self._read(response, max_bytes))
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

    def _envelope(self, reply: Reply) -> dict[str, Any]:
        """The reply's JSON object; if a proxy echoes the token, it is removed. Raises CallFailed."""
        with suppress(ValueError, RecursionError):
            body = json.loads(reply.body.replace(self.token.encode(), b"..."))
            if isinstance(body, dict) and body.get("statusCode") == reply.status:
                return body
        why = "this is a redirect, which is not followed" if 300 <= reply.status < 400 else "this is not its JSON"
        raise self._unexpected(reply.status, why, reply.number("Retry-After"))

    def _parsed(self, reply: Reply, parse: Callable[[Any, Reply], T]) -> T:
        try:
            return parse(self._envelope(reply)["data"], reply)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            raise self._unexpected(reply.status, "this is not its data") from None

    def _failure(self, reply: Reply) -> CallFailed:
        body = self._envelope(reply)
        error, message = str(body.get("error")), str(body.get("message"))
        return CallFailed(reply.status, error, message, body.get("details"), reply.number("Retry-After"))

    def _unexpected(self, status: int, why: str, retry_after: int | None = None) -> CallFailed:
        message = f"{self.url} does not answer as Augu API does: {why}."
        return CallFailed(status, responses.get(status, "Unknown"), message, retry_after=retry_after)
