"""Read the photo from a request body, in every accepted encoding."""

import json
import re
from io import BytesIO
from typing import IO, Any
from urllib.parse import parse_qsl

import flask
from marshmallow import ValidationError
from werkzeug.utils import cached_property

MAX_BODY = 8 * 1024 * 1024  # 5 MB are 6.7 MB as base64; line breaks and escapes add to that
MAX_FIELDS = 100
LOOKS_LIKE_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*[{\[\"]")  # neither base64 nor a PNG starts like this
FORM = re.compile(rb"(^|&)data=")


class Request(flask.Request):
    """A request whose bodies stay in memory: no part of an image is written to disk."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body, read in one piece if its length is known: gunicorn copies the rest for each 64 KB otherwise."""
        stream: IO[bytes] = super().stream
        return BytesIO(stream.read(self.content_length)) if self.content_length else stream

    @property
    def want_form_data_parsed(self) -> bool:
        """Whether werkzeug parses the form: multipart only, because it does not limit the fields of other forms."""
        return self.mimetype == "multipart/form-data"

    def _get_file_stream(self, *_: Any, **__: Any) -> IO[bytes]:
        return BytesIO()


def submitted(request: flask.Request) -> dict[str, Any]:
    """The request's fields: `data` as text, or as bytes if it is labelled as a PNG. Raises ValidationError.

    Tried in this order: a multipart form, JSON, a url-encoded form, the bytes of a PNG, the base64 text itself. A body
    that holds no form and does not look like JSON is taken to be the image, whatever its content type.
    """
    body = request.get_data()
    if request.mimetype == "multipart/form-data" and (request.files or request.form):
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
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ValidationError("Not JSON.", "data") from None
    if not isinstance(fields, dict):
        raise ValidationError("Not in a JSON object.", "data")
    return fields


def _form(body: bytes) -> dict[str, Any]:
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise ValidationError("Not a form.", "data") from None
    blank = "" if b"%2B" in body or b"%2b" in body else "+"  # a plus that was not escaped arrives as a space
    return fields | {"data": fields["data"].strip().replace(" ", blank)}
