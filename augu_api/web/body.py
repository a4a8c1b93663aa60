"""Read the photo from a request body, in every accepted encoding.

Everything here but `Request.receive` and `check_head` is called within the turn, because it can take many milliseconds.
"""

import json
import re
from functools import partial
from io import BytesIO
from typing import IO, Any, NamedTuple, cast

import flask
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestHeaderFieldsTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData
from werkzeug.utils import cached_property

from augu_api.photos.png import SIGNATURE
from augu_api.web.encodings import decompressed, unescaped
from augu_api.web.photo import FITTING_SIDE

MAX_BODY = 8 * 1024 * 1024  # 5 MB are 6.7 MB as base64; line breaks and escapes add to that
MAX_HEAD = 16 * 1024  # of all header values together
MAX_FIELDS = 100  # of a form
MAX_MARKS = 1000  # of JSON: a photo with 100 other fields has 600
MAX_TEXT = 8000  # characters of a field other than the photo
SHOWN = 40  # characters of the names of fields, in a refusal
MAX_PART_HEAD = 1024  # bytes: the delimiter and the headers of a part
STEP = 1024 * 1024  # bytes of a chunked body that are read at a time
LOOKS_LIKE_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*+(?:[{\"]|\[(?!object ))")  # neither base64 nor a PNG starts so
MARKS = b'[{,:"'
FORM = re.compile(rb"data=|[\w.\[\]%-]{1,30}=[^=\s]")  # base64 has = at its end only
LINE_BREAK = re.compile(rb"\r\n|\n|\r")
BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
AS_JSON = 'Send {"data":"<base64 of the PNG>"}.'
ESCAPE = "Send the photo as curl -F data=@photo.png or --data-urlencode data@photo.b64 does."


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

    @property
    def boundary(self) -> bytes:
        """What separates the parts of a multipart form."""
        return self.mimetype_params.get("boundary", "").encode("ascii", "replace")

    def is_form(self, max_parts: int, body: bytes | None = None) -> bool:
        """Whether the body, or the one given, is a multipart form of a few parts with short heads.

        werkzeug's parser takes seconds for thousands of parts, parameters or boundaries.
        """
        is_labelled = self.want_form_data_parsed and bool(self.boundary)
        content = self.get_data() if body is None else body
        return is_labelled and _has_short_heads(content, b"--" + self.boundary, max_parts)

    def forget(self) -> None:
        """Let go of the body, of which the caller has taken what it needs: the photo takes memory of its own."""
        for name in ("stream", "form", "files", "_cached_data"):
            self.__dict__.pop(name, None)

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
    """The request's fields, among them `data`: bytes or text, or whatever JSON holds. Raises ValidationError.

    What starts as a PNG is one, whatever its label. Else it is, in this order, a multipart form, JSON, a url-encoded
    form, or text: a body that holds no form and does not look like JSON is the photo, whatever its content type.
    """
    try:
        body = decompressed(request.get_data(), request.headers.get("Content-Encoding", ""), MAX_BODY)
    except RequestEntityTooLarge:
        raise ValidationError(_too_large(), "data") from None
    if body.startswith(SIGNATURE):
        return {"data": body}
    if request.is_form(MAX_FIELDS, body) and (parts := _parts(body)):
        return _fields(parts)
    if LOOKS_LIKE_JSON.match(body):
        return _json(body)
    if request.mimetype == "application/x-www-form-urlencoded" and (FORM.match(body) or b"&data=" in body):
        return _fields(_form(body))
    return {"data": body}


def _too_large() -> str:
    size = f"{request.content_length} bytes, and " if request.content_length else ""
    fits = f"{FITTING_SIDE} x {FITTING_SIDE} pixels"
    return f"The body is too large: {size}{MAX_BODY} is the limit. Shrink the photo to at most {fits}."


class Part(NamedTuple):
    """A field of a form."""

    name: str
    content: bytes
    is_file: bool = False


def _parts(body: bytes) -> list[Part]:
    """The parts of a multipart form, none if it is broken. Nothing is decoded, unlike in werkzeug's own form."""
    decoder = MultipartDecoder(request.boundary, MAX_BODY, max_parts=MAX_FIELDS)
    parts: list[Part] = []
    try:
        decoder.receive_data(body)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
            if isinstance(event, Field | File):
                parts.append(Part(event.name or "", b"", isinstance(event, File)))
            elif isinstance(event, Data):
                parts[-1] = parts[-1]._replace(content=parts[-1].content + event.data)
    except (ValueError, LookupError, RequestEntityTooLarge):  # LookupError: a part without Content-Disposition
        return []
    return parts


def _fields(parts: list[Part]) -> dict[str, Any]:
    """The fields of a form: `data`, and as text those that are short."""
    photos = [part for part in parts if part.name == "data"]
    if len(photos) > 1 or sum(part.is_file and bool(part.content) for part in parts) > 1:
        raise ValidationError("More than one photo. Send each in a request of its own.", "data")
    others = {part.name: part.content[: MAX_TEXT + 1].decode("utf-8", "replace") for part in parts}
    return _with_data(others | {part.name: part.content for part in photos})


def _with_data(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, if `data` is one of them. The names of others are shown, but not much of them."""
    if "data" not in fields:
        came = ", ".join(ascii(name[:SHOWN]) for name in list(fields)[:SHOWN])
        came = f"{came[:SHOWN]}..." if len(came) > SHOWN else came or "none"
        raise ValidationError(f"Missing. Send the photo in the field 'data'; the fields that came: {came}.", "data")
    return fields


def _json(body: bytes) -> dict[str, Any]:
    """A JSON object. One of millions of values is refused before it is parsed: they would take a gigabyte."""
    if len(body) - len(body.translate(None, MARKS)) > MAX_MARKS:
        raise ValidationError(f"JSON with more than {MAX_MARKS} brackets, quotes, colons and commas. {AS_JSON}", "data")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" after character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValidationError(f"Not JSON: it is broken or ends{where}. {AS_JSON}", "data") from None
    if not isinstance(fields, dict):
        raise ValidationError(f"Not in a JSON object. {AS_JSON}", "data")
    return _with_data(fields)


def _form(body: bytes) -> list[Part]:
    """The fields of a url-encoded form: `data` as bytes if they are a PNG's, else as base64."""
    fields = body.split(b"&", MAX_FIELDS)
    if len(fields) > MAX_FIELDS:
        raise ValidationError(f"Not a form: more than {MAX_FIELDS} fields, or & in the base64. {ESCAPE}", "data")
    if not body.isascii():
        raise ValidationError(f"Not a form: there are bytes in it that are not escaped. {ESCAPE}", "data")
    pairs = [field.partition(b"=") for field in fields]
    return [Part(unescaped(name[:MAX_TEXT]).decode("utf-8", "replace"), _value(name, text)) for name, _, text in pairs]


def _value(name: bytes, text: bytes) -> bytes:
    """The value of a field. In base64, a plus that was not escaped has become a space."""
    if name != b"data":
        return unescaped(text[: 3 * (MAX_TEXT + 1)].replace(b"+", b" "))
    value = unescaped(text.replace(b"+", b" "))
    if value.startswith(SIGNATURE):
        return value
    blank = b"" if b"%2B" in text or b"%2b" in text else b"+"
    return value.strip().replace(b" ", blank)
