"""The worst bodies of each kind, by name: the content type, and 8 MB that each get 400."""

import struct
import zlib

from augu_api.web.body import MAX_BODY

SIZE = MAX_BODY - 500
PART = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
PARTS, URLENCODED, JSON = "multipart/form-data; boundary=b", "application/x-www-form-urlencoded", "application/json"


def filled(pattern: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """The largest body of this pattern between two others."""
    return before + pattern * ((SIZE - len(before) - len(after)) // len(pattern)) + after


BODIES = {
    "JSON arrays": (JSON, filled(b"[[]],", b"[", b"[]]")),
    "JSON, nested": (JSON, filled(b"[", b'{"data":')),
    "JSON objects": (JSON, filled(b'{"a":1},', b'{"a":[', b"1]}")),
    "JSON names": (JSON, filled(b'"a":1,', b"{", b'"data":""}')),
    "JSON strings": (JSON, filled(b'"",', b"[", b'""]')),
    "JSON escapes": (JSON, filled(b"\\u0041", b'{"data":"', b'"}')),
    "JSON surrogates": (JSON, filled(b"\\ud800", b'{"data":"', b'"}')),
    "JSON slashes": (JSON, filled(b"\\/", b'{"data":"', b'"}')),
    "JSON number": (JSON, filled(b"9", b'{"data":1.', b"}")),
    "JSON blanks": (JSON, filled(b" ", b"{", b"}")),
    "JSON in UTF-8": (JSON, filled("\N{PILE OF POO}".encode(), b'{"data":"', b'"}')),
    "JSON in UTF-16": (JSON, ('{"a":[' + "[]," * (SIZE // 6 - 10) + "1]}").encode("utf-16-le")),
    "blanks": (JSON, filled(b" ")),
    "form of %": (URLENCODED, filled(b"%", b"data=")),
    "form of %00": (URLENCODED, filled(b"%00", b"data=")),
    "form of %2B": (URLENCODED, filled(b"%2B", b"data=")),
    "form of +": (URLENCODED, filled(b"+", b"data=")),
    "form of &": (URLENCODED, filled(b"&", b"data=")),
    "form of fields": (URLENCODED, filled(b"&a=b", b"data=")),
    "form of data": (URLENCODED, filled(b"&data=", b"data=")),
    "form of almost data": (URLENCODED, filled(b"&data", b"a=")),
    "text of bytes": ("text/plain", filled(b"\xff")),
    "text of UTF-8": ("text/plain", filled("ä".encode())),
    "base64": ("text/plain", filled(b"AAAA")),
    "wrapped base64": ("text/plain", filled(b"A\n")),
    "line breaks": ("text/plain", filled(b"\r\n")),
    "data URL": ("text/plain", filled(b" ", b"", b"data:image/png;base64,")),
    "PNG of chunks": ("image/png", filled(struct.pack(">I4sI", 0, b"tEXt", zlib.crc32(b"tEXt")), b"\x89PNG\r\n\x1a\n")),
    "part of text": (PARTS, PART % (b"data", b"", filled(b"A", after=b"--b--")) + b"--b--"),
    "part of bytes": (PARTS, filled(b"\xff", PART[:-6] % (b"data", b'; filename="a"') + b"\r\n\r\n", b"\r\n--b--")),
    "part of line breaks": (PARTS, filled(b"\r\n", PART[:-6] % (b"data", b'; filename="a"') + b"\r\n\r\n", b"--b--")),
    "parts": (PARTS, filled(PART % (b"a", b"", b"b"), b"", b"--b--")),
    "a hundred parts": (PARTS, PART % (b"a", b";a=b" * 200, b"A" * 80_000) * 100 + b"--b--\r\n"),
    "parameters": (PARTS, (PART % (b"a", b";a=b" * 11_000, b"b")) * 8 + b"--b--"),
    "many parameters": (PARTS, filled(PART % (b"a", b";a=b" * 2000, b"b"), b"", b"--b--")),
    "continued parameters": (PARTS, (PART % (b"a", b";a*0*=utf-8''%41" * 8000, b"b")) * 8 + b"--b--"),
    "quoted": (PARTS, PART % (b'\\"' * 50_000, b"", b"b") * 8 + b"--b--"),
    "headers": (PARTS, filled(b"\r\na:b", b"--b", b"\r\n\r\n--b--")),
    "continued headers": (PARTS, filled(b"\r\n a", b"--b\r\na: b", b"\r\n\r\n--b--")),
    "preamble": (PARTS, filled(b"\r\n--")),
    "boundaries": (PARTS, filled(b"\r\n--bx", PART % (b"data", b'; filename="a"', b""), b"\r\n--b--")),
    "padded boundaries": (PARTS, filled(b"\r\n--b" + b" " * 60_000)),
    "behind the end": (PARTS, filled(PART % (b"a", b";a=b" * 2000, b"b"), PART % (b"a", b"", b"x--b--"), b"--b--")),
}
