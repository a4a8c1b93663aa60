"""Undo what is done to a body on its way: Content-Encoding, and the escapes of a url-encoded form."""

import time

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from marshmallow import ValidationError

GZIP, ZLIB, RAW = 31, 15, -15  # as zlib numbers them
PIECE = 64 * 1024  # bytes that are decompressed at a time
SECONDS = 0.1  # of processor time for decompressing a body: blocks of a few bytes could take many times as long
READ, REFUSED = {"gzip", "x-gzip", "deflate"}, {"br", "zstd", "compress", "x-compress"}
HEX = np.full(256, 16, np.uint8)  # the value of each hexadecimal digit, 16 for any other byte
HEX[[*b"0123456789abcdef"]] = HEX[[*b"0123456789ABCDEF"]] = range(16)
AT_ONCE = 1 << 20  # bytes that are unescaped at a time, which bounds the memory for it


def decompressed(body: bytes, coding: str, max_bytes: int) -> bytes:
    """A body without its Content-Encoding, if that is one that compresses. Raises ValidationError."""
    codings = {each.strip().lower() for each in coding.split(",")}
    if codings & REFUSED or len(codings & READ) > 1 or coding.count(",") > 1:
        raise ValidationError("This Content-Encoding is not read. Send the body with gzip, deflate or none.", "data")
    if not codings & READ or not body:
        return body
    try:
        return _inflated(body, max_bytes)
    except IsalError:  # type: ignore[misc]  # the library types it as an instance
        message = "The body is not compressed as its Content-Encoding says. Compress it so, or leave that header out."
        raise ValidationError(message, "data") from None


def _inflated(body: bytes, max_bytes: int) -> bytes:
    """The body decompressed, whichever of the three kinds it is. Raises IsalError, ValidationError."""
    start, left, pieces = time.thread_time(), max_bytes + 1, []
    is_zlib = body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    inflate = isal_zlib.decompressobj(GZIP if body.startswith(b"\x1f\x8b") else ZLIB if is_zlib else RAW)
    for at in range(0, len(body), PIECE):
        pieces.append(inflate.decompress(inflate.unconsumed_tail + body[at : at + PIECE], left))
        left -= len(pieces[-1])
        if not left:
            raise ValidationError(f"The body has more than {max_bytes} bytes once it is decompressed.", "data")
        if time.thread_time() > start + SECONDS:
            raise ValidationError("The body takes too long to decompress. Send it without Content-Encoding.", "data")
        if inflate.eof:
            break
    if not inflate.eof or inflate.unused_data:
        raise ValidationError("The compressed body is cut off, or something follows its end.", "data")
    return b"".join(pieces)


def unescaped(text: bytes) -> bytes:
    """The bytes that a url-encoded text stands for; urllib takes a second for millions of escapes."""
    pieces, at = [], 0
    while at < len(text):
        end = at + AT_ONCE
        if end < len(text) and (escape := text.find(b"%", end - 2, end)) >= 0:
            end = escape
        pieces.append(_unescaped(text[at:end]))
        at = end
    return b"".join(pieces)


def _unescaped(text: bytes) -> bytes:
    if b"%" not in text:
        return text
    given = np.frombuffer(text + b"  ", np.uint8)
    high, low = HEX[given[1:-1]], HEX[given[2:]]
    escaped = (given[:-2] == ord("%")) & (high < 16) & (low < 16)
    kept = np.ones(len(given), bool)
    kept[1:-1] &= ~escaped
    kept[2:] &= ~escaped
    return np.where(escaped, high << 4 | low, given[:-2])[kept[:-2]].tobytes()
