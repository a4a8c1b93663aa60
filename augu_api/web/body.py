"""Read the photo from a request body, in every accepted encoding.

Everything here but `Request.receive` and `check_head` is called within the turn, because it can take many milliseconds.
"""

import json
import re
from functools import partial
from io import BytesIO
from typing import IO, Any, cast
from urllib.parse import unquote_to_bytes

import flask
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestHeaderFieldsTooLarge
from werkzeug.utils import cached_property

MAX_BODY = 8 * 1024 * 1024  # 5 MB are 6.7 MB as base64; line breaks and escapes add to that
MAX_HEAD = 16 * 1024  # of all header values together
MAX_FIELDS = 100  # of a form
MAX_MARKS = 1000  # of JSON: a photo with 100 other fields has 600
MAX_ESCAPES = 1000  # of a form, without those that base64 needs
MAX_PART_HEAD = 1024  # bytes: the delimiter and the headers of a part
STEP = 1024 * 1024  # bytes of a chunked body that are read at a time
LOOKS_LIKE_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*[{\[\"]")  # neither base64 nor a PNG starts like this
MARKS = b'[{,:"'
FORM = re.compile(rb"(^|&)data=")
LINE_BREAK = re.compile(rb"\r\n|\n|\r")
BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
ESCAPES = {b"%%%02X" % byte: bytes((byte,)) for byte in b"+/=\r\n "}
ESCAPES |= {escape.lower(): text for escape, text in ESCAPES.items()}


def check_head() -> None:
    """Refuse a request whose headers are too long together: parsers take a second for 100 headers of 8 KB."""
    fields = (value for name, value in flask.request.environ.items() if name.startswith(("HTTP_", "CONTENT_")))
    if sum(map(len, fields)) > MAX_HEAD:
        raise RequestHeaderFieldsTooLarge


class Request(flask.Request):
    """A request whose bodies stay in memory: no part of an image is written to disk."""

    failure: Exception | None = None

    def receive(self) -> None:
        """Read the body now. What is wrong with it is raised by whatever uses it."""
        try:
            self.stream  # noqa: B018 - is read and kept
        except (HTTPException, ValidationError) as error:
            self.failure = error
            self.__dict__.pop("stream", None)  # werkzeug has kept what is left of it

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body, read in large pieces: gunicorn copies the rest for each 64 KB otherwise."""
        if self.failure:
            raise self.failure
        stream: IO[bytes] = super().stream
        try:
            pieces = iter(partial(stream.read, STEP), b"")
            return BytesIO(stream.read(self.content_length) if self.content_length else b"".join(pieces))
        except (RequestEntityTooLarge, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - the server's own, and each server has others
            raise ValidationError("The body ends too early, or its chunks are broken or too small.", "data") from None

    @property
    def want_form_data_parsed(self) -> bool:
        """Whether werkzeug parses the form: multipart only, because it does not limit the fields of other forms."""
        return self.mimetype == "multipart/form-data"

    def is_form(self, max_parts: int) -> bool:
        """Whether the body is a multipart form of a few parts with short heads.

        werkzeug's parser takes seconds for thousands of parts, parameters or boundaries.
        """
        boundary = self.mimetype_params.get("boundary", "").encode("ascii", "replace")
        is_labelled = self.want_form_data_parsed and bool(boundary)
        return is_labelled and _has_short_heads(self.get_data(), b"--" + boundary, max_parts)

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return BytesIO()


request = cast("Request", flask.request)  # the current one


def _has_short_heads(body: bytes, delimiter: bytes, max_parts: int) -> bool:
    """Whether werkzeug will find a form, with no more parts and no longer heads than these, and nothing behind it."""
    at = body.find(delimiter, 0, MAX_PART_HEAD)
    for _ in range(max_parts + 1):
        end = at + len(delimiter)
        if at < 0 or body.startswith(b"--", end):
            return at >= 0 and body.find(delimiter, end) < 0
        begin = LINE_BREAK.match(body, end)
        head = BLANK_LINE.search(body, begin.end(), end + MAX_PART_HEAD) if begin else None
        if not head:
            return False
        at = body.find(delimiter, head.end())
    return False


def submitted() -> dict[str, Any]:
    """The request's fields: `data` as text, or as bytes if it is labelled as a PNG. Raises ValidationError.

    Tried in this order: a multipart form, JSON, a url-encoded form, the bytes of a PNG, the base64 text itself. A body
    that holds no form and does not look like JSON is taken to be the image, whatever its content type.
    """
    body = request.get_data()
    if request.is_form(MAX_FIELDS) and (request.files or request.form):
        part = request.files.get("data")
        return {"data": _labelled(part.read(), part.mimetype)} if part else request.form.to_dict()
    if LOOKS_LIKE_JSON.match(body):
        return _json(body)
    if request.mimetype == "application/x-www-form-urlencoded" and FORM.search(body):
        return _form(body)
    return {"data": _labelled(body, request.mimetype)}


def _labelled(body: bytes, mimetype: str) -> str | bytes:
    return body if mimetype == "image/png" and not body.isascii() else body.decode("utf-8-sig", "replace")


def _json(body: bytes) -> dict[str, Any]:
    """A JSON object. One of millions of values is refused before it is parsed: they would take a gigabyte."""
    if len(body) - len(body.translate(None, MARKS)) > MAX_MARKS:
        raise ValidationError(f"JSON with more than {MAX_MARKS} brackets, quotes, colons and commas.", "data")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ValidationError("Not JSON.", "data") from None
    if not isinstance(fields, dict):
        raise ValidationError("Not in a JSON object.", "data")
    return fields


def _form(body: bytes) -> dict[str, Any]:
    """The last field `data` of a url-encoded form; the others are not looked at."""
    fields = body.split(b"&", MAX_FIELDS)
    if len(fields) > MAX_FIELDS or not body.isascii():
        raise ValidationError("Not a form.", "data")
    value = [field[5:] for field in fields if field.startswith(b"data=")][-1].replace(b"+", b" ")
    for escape, text in ESCAPES.items():  # urllib takes a second for millions of them
        value = value.replace(escape, text)
    if value.count(b"%") > MAX_ESCAPES:
        raise ValidationError("Not base64.", "data")
    blank = "" if b"%2B" in body or b"%2b" in body else "+"  # a plus that was not escaped arrives as a space
    return {"data": unquote_to_bytes(value).decode(errors="replace").strip().replace(" ", blank)}
