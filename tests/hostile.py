"""Hostile and broken requests, each with the expected status."""

import base64
import gzip
import hmac
import http.client
import json
import random
import socket
import time
import zlib
from contextlib import suppress
from typing import NamedTuple

from tests.helpers import OBJECTS, picture, png_of
from tests.png_encoder import GREY, RGBA, chunk, ihdr, png

SECRET = "s" * 32
PHOTO = png_of(picture("astronaut").resize((128, 128)))
SECONDS = 2.0
MB = 2**20


Fields = dict[str, str | bytes]


class Case(NamedTuple):
    """The bytes of a request and the expected status."""

    request: bytes
    status: int
    ends: bool = False
    """Whether the client hangs up its side after the request."""


def raw(line: str, headers: Fields, body: bytes = b"") -> bytes:
    """A request; texts are encoded as latin-1, as in HTTP."""
    fields: Fields = {"Host": "localhost", **headers}
    lines = [line.encode("latin-1")]
    for name, value in fields.items():
        lines.append(f"{name}: ".encode() + (value if isinstance(value, bytes) else value.encode("latin-1")))
    return b"\r\n".join([*lines, b"", body])


def post(body: bytes, headers: Fields, path: str = OBJECTS) -> bytes:
    """A POST with the right Content-Length, unless the headers set another."""
    return raw(f"POST {path} HTTP/1.1", {"Content-Length": str(len(body)), **headers}, body)


def get(path: str, **headers: str | bytes) -> bytes:
    return raw(f"GET {path} HTTP/1.1", {name.replace("_", "-"): value for name, value in headers.items()})


def chunked(body: bytes, headers: Fields, size: int = 65536) -> bytes:
    """The same with chunked encoding, so without a Content-Length."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return raw(f"POST {OBJECTS} HTTP/1.1", {"Transfer-Encoding": "chunked", **headers}, framed + b"0\r\n\r\n")


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(payload: str, secret: str = SECRET, **header: object) -> str:
    """A properly signed token with any payload and extra fields in its header."""
    head = json.dumps({"alg": "HS256"} | header, separators=(",", ":"))
    signed = f"{b64url(head.encode())}.{b64url(payload.encode())}"
    return f"{signed}.{b64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def tokens(good: str) -> dict[str, Case]:
    """Invalid tokens, made with attacks that have worked elsewhere."""
    header, payload, signature = good.split(".")
    said = base64.urlsafe_b64decode(payload + "==").decode()
    user, issued = said.split(":")
    unkeyed = hmac.digest(b"", f"{header}.{payload}".encode(), "sha256")
    bad = {
        "of another secret": token(said, "t" * 32),
        "of the empty secret": f"{header}.{payload}.{b64url(unkeyed)}",
        "unsigned": b64url(b'{"alg":"none"}') + f".{payload}.",
        "unsigned, header kept": f"{header}.{payload}.",
        "with a type": token(said, typ="JWT"),
        "with a key id": token(said, kid="../../../../dev/null"),
        "of another user": token(f"{int(user) + 1}:{issued}"),
        "of yesterday": token(f"{user}:{int(issued) - 86_400_000}"),
        "of a leading zero": token(f"0{user}:{issued}"),
        "of user 0": token("0:0"),
        "of a user beyond 64 bits": token(f"{'9' * 19}:{issued}"),
        "of a time beyond 64 bits": token(f"{user}:{'9' * 19}"),
        "of a negative user": token(f"-{user}:{issued}"),
        "of SQL": token("1' OR '1'='1:1"),
        "of a null": token(f"{user}:{issued}\0"),
        "of other digits": token(f"{user}:{issued[:-1]}٣"),
        "of a JSON payload": token('{"sub":1}'),
        "without a payload": f"{header}..{signature}",
        "in one part": header,
        "in four parts": f"{good}.{signature}",
        "with padding": f"{good}=",
        "with a wrong last letter": good[:-1] + ("A" if good[-1] != "A" else "E"),
        "of bytes": "\xff\xfe\xfd",
        "of a separator": "." * 1000,
        "of 7000 letters": "A" * 7000,
    }
    cases = {f"token {name}": Case(post(PHOTO, {"Authorization": f"Bearer {text}"}), 401) for name, text in bad.items()}
    schemes = {
        "Basic": f"Basic {b64url(b'a:b')}",
        "Digest": 'Digest username="',
        "none": "",
        "twice": f"Bearer {good},a",
    }
    return cases | {f"scheme {name}": Case(get("/session", Authorization=text), 401) for name, text in schemes.items()}


def photos(auth: Fields) -> dict[str, Case]:
    """Files with false or huge claims in their headers, and broken files."""
    labelled = auth | {"Content-Type": "image/png"}
    dice = random.Random(1)
    flipped = bytearray(PHOTO)
    for _ in range(50):
        flipped[dice.randrange(33, len(flipped))] ^= 1 << dice.randrange(8)
    bomb = zlib.compress(bytes(64 * MB), 9)
    rows = zlib.compress(bytes(2 * 64))
    bad = {
        "truncated": PHOTO[: len(PHOTO) // 2],
        "without its end": PHOTO[:-12],
        "of flipped bits": bytes(flipped),
        "a signature alone": PHOTO[:8],
        "a header alone": PHOTO[:33],
        "of absurd sides": png(ihdr(2**31 - 1, 2**31 - 1), chunk(b"IDAT", rows), chunk(b"IEND")),
        "of one pixel too many": png(ihdr(5000, 5001), chunk(b"IDAT", rows), chunk(b"IEND")),
        "of 25 million missing pixels": png(ihdr(5000, 5000, 16, RGBA), chunk(b"IDAT", rows), chunk(b"IEND")),
        "of a bomb that is too short": png(ihdr(5000, 5000, 16, RGBA), chunk(b"IDAT", bomb), chunk(b"IEND")),
        "of a second header": png(ihdr(64, 1), ihdr(60000, 60000), chunk(b"IDAT", rows), chunk(b"IEND")),
        "of a bad filter": png(ihdr(64, 2, 8, GREY), chunk(b"IDAT", zlib.compress(b"\7" * 130)), chunk(b"IEND")),
        "of 100000 chunks": png(ihdr(64, 2, 8, GREY), chunk(b"tEXt") * 100_001),
        "of a huge chunk": png(ihdr(64, 2, 8, GREY), b"\x7f\xff\xff\xffIDAT"),
        "without a palette": png(ihdr(8, 2, 8, 3), chunk(b"IDAT", rows), chunk(b"IEND")),
        "a JPEG": b"\xff\xd8\xff\xe0" + bytes(1000),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a GIF": b"GIF89a" + bytes(100),
        "over 5 MB": PHOTO + bytes(5 * MB),
        "in gzip": gzip.compress(PHOTO),
    }
    cases = {f"photo {name}": Case(post(body, labelled), 400) for name, body in bad.items()}
    text_bomb = chunk(b"zTXt", b"a\0\0" + bomb) + chunk(b"iCCP", b"a\0\0" + bomb)
    pixels = {
        (w, h): zlib.compress(bytes(h * (1 + (w + 7) // 8)), 9) for w, h in ((1, 1), (1, 20_000), (20_000, 1), (7, 9))
    }
    odd = {
        f"photo of {w} x {h}": png(
            ihdr(w, h, 1, GREY), text_bomb if w == 7 else b"", chunk(b"IDAT", body), chunk(b"IEND")
        )
        for (w, h), body in pixels.items()
    }
    black = png(ihdr(5000, 5000), chunk(b"IDAT", zlib.compress(bytes(5000 * 15001), 9)), chunk(b"IEND"))
    odd["photo of as many pixels as are allowed"] = black
    return cases | {name: Case(post(body, labelled), 200) for name, body in odd.items()}


def bodies(auth: Fields) -> dict[str, Case]:
    """Bodies that are too large, too deeply nested, repeated or of the wrong type."""
    b64 = base64.b64encode(PHOTO)
    form = auth | {"Content-Type": "application/x-www-form-urlencoded"}
    as_json = auth | {"Content-Type": "application/json"}
    parts = auth | {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    return {
        "no body": Case(post(b"", auth), 400),
        "no length": Case(raw(f"POST {OBJECTS} HTTP/1.1", auth), 400),
        "9 MB": Case(post(bytes(9 * MB), auth), 400),
        "9 MB in chunks": Case(chunked(b"A" * (9 * MB), auth), 400),
        "9 MB without a token": Case(post(bytes(9 * MB), {}), 401),
        "9 MB in chunks without a token": Case(chunked(bytes(9 * MB), {}), 401),
        "8 MB of blanks": Case(post(b" " * (8 * MB), auth), 400),
        "8 MB of base64": Case(post(b"A" * (8 * MB), auth), 400),
        "a photo in chunks of a byte": Case(chunked(b64[:3000], auth, 1), 400),
        "a length of 10^18": Case(post(b64, auth | {"Content-Length": str(10**18)}), 400),
        "a length that is too long": Case(post(b64[:-99], auth | {"Content-Length": str(len(b64))}), 400, ends=True),
        "a length that is too short": Case(post(b64, auth | {"Content-Length": "100", "Connection": "close"}), 400),
        "chunks that break off": Case(chunked(b64, auth)[:-100], 400, ends=True),
        "chunks of no size": Case(post(b"zz\r\nabc\r\n", {"Transfer-Encoding": "chunked"}), 400),
        "broken chunks": Case(
            raw(f"POST {OBJECTS} HTTP/1.1", {"Transfer-Encoding": "chunked", **auth}, b"ZZ\r\nabc\r\n"), 400
        ),
        "a million chunks": Case(chunked(b64[:1] * 1_000_000, auth, 1), 400),
        "JSON of empty arrays": Case(post(b"[" + b"[[]]," * (MB + 600_000) + b"[]]", as_json), 400),
        "JSON nested deeply": Case(post(b'{"data":' * 200_000, as_json), 400),
        "JSON of many arrays": Case(post(b"[" * 1_000_000, as_json), 400),
        "JSON of a huge number": Case(post(b'{"data":' + b"9" * 100_000 + b"}", as_json), 400),
        "JSON of no number": Case(post(b'{"data":NaN}', as_json), 400),
        "JSON of many keys": Case(post(json.dumps({str(n): n for n in range(100_000)}).encode(), as_json), 400),
        "JSON of surrogates": Case(post(b'{"data":"\\ud800\\udfff\\ud800"}', as_json), 400),
        "JSON in UTF-16": Case(post('{"data":""}'.encode("utf-16"), as_json), 400),
        "JSON of an object": Case(post(b'{"data":{"$ne":null}}', as_json), 400),
        "a form of many fields": Case(post(b"data=a" + b"&a=b" * 1_000_000, form), 400),
        "a form of escapes": Case(post(b"data=" + b"%00" * 1_000_000, form), 400),
        "a form of many photos": Case(post(b"data=%b&" % b64 + b"data=x", form), 400),
        "parts without a boundary": Case(post(b64[:50], auth | {"Content-Type": "multipart/form-data"}), 400),
        "parts of a huge boundary": Case(
            post(b64[:50], auth | {"Content-Type": f"multipart/form-data; boundary={'b' * 5000}"}), 400
        ),
        "too many parts": Case(post(part % (b"a", b"b") * 20_000 + b"--b--", parts), 400),
        "a part of many headers": Case(post(b"--b\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n\r\n--b--", parts), 400),
        "a part of no end": Case(post(part % (b"data", b64), parts), 400),
        "a part of 8 MB": Case(post(part % (b"data", b"A" * (8 * MB - 200)) + b"--b--", parts), 400),
        "a part of another name": Case(post(part % (b"data[]", b64) + b"--b--", parts), 400),
        "a file named like a path": Case(
            post(part % (b'data"; filename="../../etc/passwd', b"x") + b"--b--", parts), 400
        ),
        "gzip of 40 MB": Case(post(gzip.compress(bytes(40 * MB)), auth | {"Content-Encoding": "gzip"}), 400),
        "gzip of no end": Case(post(gzip.compress(b64)[:-4], auth | {"Content-Encoding": "gzip"}), 400),
        "a type of no kind": Case(post(b"\xff\0", auth | {"Content-Type": "\xff;\x80=;;;"}), 400),
    }


def lines(auth: Fields) -> dict[str, Case]:
    """Request lines, queries and headers."""
    body = {**auth, "Content-Length": "1"}
    return {
        "no such path": Case(get("/wp-login.php"), 404),
        "a path out of the root": Case(get("/../../../../etc/passwd"), 404),
        "an escaped path out of the root": Case(get("/%2e%2e/%2e%2e/etc/passwd"), 404),
        "a path of control characters": Case(get("/%00%0a%0d%1b%7f"), 404),
        "a path of no Unicode": Case(get("/%ff%fe%c0%ae"), 404),
        "a path of slashes": Case(get("/nothing" + "/" * 3000), 404),
        "a template": Case(get("/{{7*7}}${jndi:ldap://x}"), 404),
        "another host's URL": Case(get("http://example.com/nothing"), 404),
        "a wrong method": Case(raw(f"DELETE {OBJECTS} HTTP/1.1", auth), 405),
        "a method of no kind": Case(raw(f"BREW {OBJECTS} HTTP/1.1", auth), 405),
        "TRACE": Case(raw("TRACE /session HTTP/1.1", auth), 405),
        "a query of a null": Case(post(b"x", auth, f"{OBJECTS}?names=%00%0a"), 400),
        "a query of many parameters": Case(post(b"x", auth, f"{OBJECTS}?{'a=b&' * 900}"), 400),
        "a query of no number": Case(post(b"x", auth, f"{OBJECTS}?min_score=nan"), 400),
        "a query of a huge number": Case(post(b"x", auth, f"{OBJECTS}?limit={'9' * 3900}"), 400),
        "a query of markup": Case(post(b"x", auth, f"{OBJECTS}?names=<script>alert(1)</script>"), 400),
        "a User-Agent of escapes": Case(post(b"x", body | {"User-Agent": b'Mozilla"}\\n{"forged":1 \x80\xff'}), 400),
        "a User-Agent of 8000 letters": Case(post(b"x", body | {"User-Agent": "a" * 8000}), 400),
        "a User-Agent of a label": Case(post(b"x", body | {"User-Agent": 'a"} 1\\nforged{a="'}), 400),
        "a request id of JSON": Case(post(b"x", body | {"X-Request-Id": '","forged":"1'}), 400),
        "a request id of 8000 letters": Case(post(b"x", body | {"X-Request-Id": "a" * 8000}), 400),
        "a Host of no kind": Case(raw("GET /session HTTP/1.1", {"Host": "a b<c>:x", **auth}), 200),
        "an upgrade to HTTP/2": Case(get("/nothing", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c"), 404),
        "a websocket": Case(get("/nothing", Connection="Upgrade", Upgrade="websocket"), 404),
        "a range of bytes": Case(get("/nothing", Range="bytes=0-,1-,2-,3-"), 404),
        "a forwarded prefix": Case(get("/nothing", X_Forwarded_Prefix="/session", X_Forwarded_Host="evil"), 404),
        "two lengths": Case(raw(f"POST {OBJECTS} HTTP/1.1\r\nContent-Length: 5", body, b"x"), 400),
        "a length and chunks": Case(post(b"0\r\n\r\n", {"Transfer-Encoding": "chunked", **auth}), 400),
        "a negative length": Case(post(b"x", {"Content-Length": "-1"}), 400),
        "a length of no number": Case(post(b"x", {"Content-Length": "0x1"}), 400),
        "an unknown coding": Case(post(b"x", {"Transfer-Encoding": "zip"}), 501),
        "a header of line feeds": Case(get("/session", X_A="a\nX-Forged: 1\0"), 400),
        "a header without a name": Case(b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
        "a folded header": Case(b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        "a header of 9000 letters": Case(get("/session", X_A="a" * 9000), 431),
        "too many headers": Case(raw("GET / HTTP/1.1", {f"X-{n}": "" for n in range(200)}), 431),
        "a line of 9000 letters": Case(get("/" + "a" * 9000), 414),
        "no HTTP": Case(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400),
        "HTTP/9": Case(b"GET / HTTP/9.9\r\n\r\n", 400),
    }


def ask_again(port: int, case: Case) -> tuple[int, bytes, float]:
    """Ask up to three times until the reply takes less than SECONDS: other processes may slow down the first tries."""
    for _ in range(2):
        answer = ask(port, case)
        if answer[2] < SECONDS:
            return answer
    return ask(port, case)


def ask(port: int, case: Case) -> tuple[int, bytes, float]:
    """The status and body of the reply, and the seconds until it was read.

    A server may answer and disconnect before a large request has been sent; the reply is still read.
    """
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(case.request)
            if case.ends:
                connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read(), time.monotonic() - start
