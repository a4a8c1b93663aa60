"""The photo of a request: a PNG as bytes or as base64, or the reason why it is none and how to mend that."""

import binascii
import math
import re
import string
import struct
from typing import Any

import numpy as np
import pybase64
from marshmallow import ValidationError, fields
from numpy.typing import NDArray

from augu_api.photos import MAX_BYTES, ImageRejected, decode, formats
from augu_api.photos.png import SIGNATURE

BOM = b"\xef\xbb\xbf"
WHITE_SPACE = b" \t\r\n\v\f"
URL_SAFE = b"-_"
STANDARD = bytes.maketrans(URL_SAFE, b"+/")
ALPHABET = f"{string.ascii_letters}{string.digits}+/=".encode()
DATA_URL = re.compile(rb"\s*+data:([^,;]{0,100})((?:;[^,;]{0,100}){0,9}?);\s*+base64\s*+,", re.IGNORECASE)
DATA_URL_TYPES = {b"", b"image/png", b"image/x-png", b"application/octet-stream"}  # browsers know no better
FITTING_SIDE = 1280  # pixels: a square of 8-bit RGB of this size has less than 5 MB, however badly it compresses

SEND = "Send the bytes of a PNG file as the body, or its base64."
EMPTY = f"Missing. {SEND}"
MISSING: dict[str, str | list[Any] | dict[Any, Any]] = {"required": EMPTY, "null": EMPTY}
NO_TEXT = 'Not a string. Send the PNG as base64 text: {"data":"iVBORw0KGgo..."}.'
NO_PNG = f"Not a PNG image, and not base64 of one. {SEND}"
LINE_ENDS = (
    "A PNG whose line breaks were changed or removed on the way. Send the file as it is: with curl, use --data-binary "
    "@photo.png instead of -d; elsewhere, open and copy it in binary mode."
)
AS_TEXT = (
    "A PNG that was read as text, which destroys it. Read the file as bytes: open(path, 'rb') in Python, readFile(path)"
    " without an encoding in Node."
)
BYTES_LITERAL = "Python's b'...' is around the base64. Use base64.b64encode(file).decode() instead of str()."
NO_DATA_URL = "Not the data URL of a PNG. It starts with data:image/png;base64, before the base64."
NO_FORM = (
    "A multipart form that cannot be read. Let the HTTP library set Content-Type, which names the boundary, and send "
    "the whole form: at most 100 parts, each with less than 1 KB of headers."
)
URL = "The address of a photo, not the photo. The service downloads nothing: download it and send its bytes."
FILE_NAME = (
    "The name of a file, not its contents. Read the file and send its bytes; curl does so for --data-binary @photo.png "
    "and for -F data=@photo.png, but not for -d data=@photo.png."
)
CONVERT = "Convert it: Image.open(path).save('photo.png') with Pillow, or magick photo photo.png."
REMEDIES = {
    "PDF": "Convert a page to a picture: pdftoppm -png -singlefile document.pdf photo.",
    "HTML": "Send the photo itself, not a page that shows it or the error page of another server.",
    "ZIP": "Unpack it and send the photo.",
    "gzip": "Unpack it and send the photo, or say Content-Encoding: gzip.",
}
"""By format, what to do if it is not a picture."""
MISTAKES = {
    rb"\x89PNG": LINE_ENDS,
    rb"(?:\xef\xbf\xbd|\xc2\x89|\?)PNG": AS_TEXT,
    rb"\xff\xfe|\xfe\xff": "Text in UTF-16. Save it as ASCII or UTF-8; PowerShell does so with -Encoding ascii.",
    rb"--": NO_FORM,
    rb"b['\"]": BYTES_LITERAL,
    rb"(?i)(?:data:|image/|[a-z0-9;=-]{0,40}base64,)": NO_DATA_URL,
    rb"(?i)(?:https?|ftp|blob|s3):": URL,
    rb"(?i)@|file:|[./~][^\n]{0,250}$|[a-z]:\\": FILE_NAME,
    rb"(?i)[^\n]{1,250}\.(?:png|jpe?g|webp|gif|bmp|tiff?|heic|avif|b64|base64|txt)$": FILE_NAME,
    rb"\[object |undefined$|null$|None$|NaN$|<_io|<built": f"The name of a variable or an object, not a photo. {SEND}",
    rb"[^%]{0,100}%(?:2[BbFf]|3[Dd]|0[AaDd])": "Base64 with percent signs in it. Send it without such escapes.",
}
"""What is often sent by mistake, by how it starts: the reason, and the way out."""
PATTERNS = {re.compile(pattern): reason for pattern, reason in MISTAKES.items()}


class Photo(fields.Field[NDArray[np.uint8]]):
    """A PNG, as base64 or as bytes, loaded as RGB pixels (H, W, 3), at most the schema's `max_pixels`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> NDArray[np.uint8]:
        try:
            return self._decoded(value, getattr(self.parent, "max_pixels", 0))
        except ImageRejected as error:
            raise ValidationError(str(error)) from error

    def _decoded(self, value: Any, max_pixels: int) -> NDArray[np.uint8]:
        file = file_of(value)
        if len(file) > MAX_BYTES:
            raise ImageRejected(f"Larger than {MAX_BYTES} bytes: {len(file)}. {_way_to_shrink(max_pixels)}")
        try:
            return decode(file, max_pixels)
        except ImageRejected as error:
            if len(file) >= 24 and math.prod(struct.unpack_from(">II", file, 16)) > max_pixels:
                raise ImageRejected(f"{error} {_way_to_shrink(max_pixels)}") from error
            raise


def file_of(value: Any) -> bytes:
    """The bytes of the PNG that a field holds as bytes or as base64. Raises ImageRejected."""
    if not isinstance(value, str | bytes):
        raise ImageRejected(NO_TEXT)
    content = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if content.startswith(SIGNATURE):
        return content
    text = content.removeprefix(BOM)
    prefix = DATA_URL.match(text)
    encoded = _without_blanks(text[prefix.end() :] if prefix else text)
    if not encoded:
        raise ImageRejected(EMPTY)
    file = _from_base64(encoded)
    if not file or not file.startswith(SIGNATURE):
        raise ImageRejected(_mistake(text, encoded, file))
    if prefix and prefix[1].strip().lower() not in DATA_URL_TYPES:
        raise ImageRejected("The data URL holds a PNG, but has another type. Start it with data:image/png;base64,")
    return file


def _without_blanks(text: bytes) -> bytes:
    """The base64 in the standard alphabet. Looking first is ten times as fast as translating."""
    return text.translate(STANDARD, WHITE_SPACE) if any(each in text for each in WHITE_SPACE + URL_SAFE) else text


def _from_base64(encoded: bytes) -> bytes | None:
    """The bytes that base64 stands for, whether or not it is padded; none if it is not base64."""
    letters = encoded.rstrip(b"=")
    try:
        return pybase64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None


def _mistake(text: bytes, encoded: bytes, file: bytes | None) -> str:
    """Why this is no PNG, in words that mend the call; `file` is what it decodes to, if it is base64."""
    if name := formats.name_of(text) or formats.name_of(file or b""):
        return f"This is {name}, not PNG. {REMEDIES.get(name, CONVERT)}"
    head = (file if file and file.startswith(b"\x89PNG") else text)[:400].strip()
    if reason := next((reason for pattern, reason in PATTERNS.items() if pattern.match(head)), ""):
        return reason
    if file is None and encoded.isascii():
        return _not_base64(encoded)
    return NO_PNG if file is None else f"Not a PNG image. {SEND}"


def _not_base64(encoded: bytes) -> str:
    """Where a text stops being base64."""
    if wrong := encoded.translate(None, ALPHABET):
        at, letter = encoded.find(wrong[:1]) + 1, ascii(chr(wrong[0]))
        return f"Not base64: {letter} is not one of its characters (number {at}, without white space). {SEND}"
    if 0 <= (at := encoded.find(b"=")) < len(encoded.rstrip(b"=")):
        return f"Not base64: padding within it (number {at + 1}, without white space). Encode the whole file at once."
    return "Not base64: characters are missing at its end. Send all of it."


def _way_to_shrink(max_pixels: int) -> str:
    side = min(FITTING_SIDE, math.isqrt(max_pixels))
    return f"Shrink it until it is at most {side} pixels wide and high: as 8-bit RGB, that fits."
