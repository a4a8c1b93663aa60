"""What strangers' programs send at their first try: each upload of a PNG is read, and each mistake is named.

Programs that are installed send for themselves. Of the others, the bytes that they send are below.
"""

import asyncio
import base64
import gzip
import http.client
import json
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from augu_api.photos import MAX_BYTES
from augu_api.web.body import MAX_BODY
from augu_api.web.docs.examples import SIGN
from tests.helpers import LOOPBACK, OBJECTS, file_of, missing, needed, png_of
from tests.servers import Reply, Server, add, call, fronting, serving
from tests.strangers.running import HERE, PROGRAMS

PNG = base64.b64decode(SIGN)
B64 = SIGN.encode()
BY_DEFAULT = "application/x-www-form-urlencoded"  # of curl, wget and others
FORM = "multipart/form-data; boundary=b"
UPLOADS = HERE / "uploads.mjs"


@dataclass
class Target:
    """A server, a user's token and files to send."""

    server: Server
    token: str
    png: Path
    base64: Path

    @property
    def url(self) -> str:
        return self.server.url + OBJECTS

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def post(self, body: bytes, kind: str | None = None, query: str = "", **headers: str) -> Reply:
        """Send this body, with a Content-Type if one is given."""
        headers |= {} if kind is None else {"Content-Type": kind}
        return call(self.server.port, OBJECTS + query, body, self.token, **headers)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, not_quick: None) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "photo.png").write_bytes(PNG)
    (folder / "photo.b64").write_bytes(base64.encodebytes(PNG))
    with serving(folder) as start:
        server = start(WEB_CONCURRENCY="1", AUGU_MAX_PIXELS="1000000")
        yield Target(server, add(server, coefficient=1000), folder / "photo.png", folder / "photo.b64")


def finds_the_sign(reply: Any) -> None:
    """The reply, as JSON, is that to the photo."""
    assert [item["name"] for item in reply["data"]["objects"]] == ["stop sign"], reply


# --- programs that send for themselves


def requests_post(target: Target, **options: Any) -> Any:
    return needed("requests").post(target.url, headers=target.headers, timeout=60, **options).json()


def httpx_post(target: Target, **options: Any) -> Any:
    return needed("httpx").post(target.url, headers=target.headers, timeout=60, **options).json()


def aiohttp_post(target: Target, make: Callable[[Any], Any]) -> Any:
    aiohttp = needed("aiohttp")

    async def post() -> Any:
        async with (
            aiohttp.ClientSession(headers=target.headers) as session,
            session.post(target.url, data=make(aiohttp)) as reply,
        ):
            return await reply.json()

    return asyncio.run(post())


def field_of_aiohttp(aiohttp: Any) -> Any:
    form = aiohttp.FormData()
    form.add_field("data", PNG, filename="photo.png")
    return form


def opened(path: Path, send: Callable[[Any], Any]) -> Any:
    """What is sent while the file is open."""
    with path.open("rb") as file:
        return send(file)


PYTHON: dict[str, Callable[[Target], Any]] = {
    "requests, files of a file": lambda to: opened(to.png, lambda file: requests_post(to, files={"data": file})),
    "requests, files of bytes": lambda to: requests_post(to, files={"data": PNG}),
    "requests, files without a name": lambda to: requests_post(to, files={"data": (None, PNG)}),
    "requests, files of base64": lambda to: opened(to.base64, lambda file: requests_post(to, files={"data": file})),
    "requests, data of bytes": lambda to: requests_post(to, data=PNG),
    "requests, data of a file": lambda to: opened(to.png, lambda file: requests_post(to, data=file)),
    "requests, data of a field of bytes": lambda to: requests_post(to, data={"data": PNG}),
    "requests, data of a field of base64": lambda to: requests_post(to, data={"data": SIGN}),
    "requests, json": lambda to: requests_post(to, json={"data": SIGN}),
    "httpx, files of bytes": lambda to: httpx_post(to, files={"data": PNG}),
    "httpx, files of a file": lambda to: opened(to.png, lambda file: httpx_post(to, files={"data": file})),
    "httpx, content": lambda to: httpx_post(to, content=PNG),
    "httpx, content in chunks": lambda to: httpx_post(to, content=iter([PNG[:500], PNG[500:]])),
    "httpx, data of base64": lambda to: httpx_post(to, data={"data": SIGN}),
    "aiohttp, bytes": lambda to: aiohttp_post(to, lambda _: PNG),
    "aiohttp, a file": lambda to: opened(to.png, lambda file: aiohttp_post(to, lambda _: file)),
    "aiohttp, a form of a file": lambda to: opened(to.png, lambda file: aiohttp_post(to, lambda _: {"data": file})),
    "aiohttp, a form of bytes": lambda to: aiohttp_post(to, lambda _: {"data": BytesIO(PNG)}),
    "aiohttp, a field with a name": lambda to: aiohttp_post(to, field_of_aiohttp),
}


@pytest.mark.parametrize("send", PYTHON.values(), ids=PYTHON)
def test_python_clients(target: Target, send: Callable[[Target], Any]) -> None:
    """However requests, httpx and aiohttp send the file, it is read."""
    finds_the_sign(send(target))


CURL = {
    "-F of a file": ("-F", "data=@{png}"),
    "-F of base64": ("-F", "data=<{base64}"),
    "-F with a type": ("-F", "data=@{png};type=image/jpeg"),
    "--data-binary": ("--data-binary", "@{png}"),
    "--data-binary of base64": ("--data-binary", "@{base64}"),
    "-d of base64": ("-d", "@{base64}"),
    "--data-urlencode of base64": ("--data-urlencode", "data@{base64}"),
    "--data-urlencode of a file": ("--data-urlencode", "data@{png}"),
    "-T": ("-X", "POST", "-T", "{png}"),
    "--json": ("--json", f'{{"data":"{SIGN}"}}'),
}


def curl(target: Target, *options: str) -> Any:
    """What curl gets."""
    if not shutil.which("curl"):
        missing("curl")
    given = [option.replace("{png}", str(target.png)).replace("{base64}", str(target.base64)) for option in options]
    command = ["curl", "-sS", "-H", f"Authorization: Bearer {target.token}", *given, target.url]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout)


@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_curl(target: Target, options: tuple[str, ...]) -> None:
    """However curl sends the file, it is read."""
    finds_the_sign(curl(target, *options))


@pytest.mark.parametrize(("client", "ways"), [("fetch", 9), ("axios", 7)])
def test_node(target: Target, client: str, ways: int) -> None:
    """However Node's fetch, or axios with form-data, sends the file, it is read."""
    if lacks := PROGRAMS[client].lacks:
        missing(lacks)
    command = ["node", str(UPLOADS), target.url, target.token, str(target.png), client]
    replies = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout)
    assert len(replies) == ways
    for reply in replies.values():
        finds_the_sign(reply)


# --- the bytes of others


def part(content: bytes, disposition: str, *headers: str) -> bytes:
    """A form with one part, with its headers in the order in which a program sends them."""
    head = "".join(f"{line}\r\n" for line in (f"Content-Disposition: form-data; {disposition}", *headers))
    return f"--b\r\n{head}\r\n".encode() + content + b"\r\n--b--\r\n"


OCTETS = "Content-Type: application/octet-stream"
OTHERS = {
    "Go, http.Post without a type": ("", PNG),
    "Go, CreateFormFile": (FORM, part(PNG, 'name="data"; filename="photo.png"', OCTETS)),
    "Go, CreateFormField": (FORM, part(PNG, 'name="data"')),
    "PHP, CURLFile": (FORM, part(PNG, 'name="data"; filename="/tmp/photo.png"', OCTETS)),
    "PHP, CURLOPT_POSTFIELDS of bytes": (BY_DEFAULT, PNG),
    "PHP, http_build_query": (BY_DEFAULT, b"data=" + B64.replace(b"+", b"%2B").replace(b"/", b"%2F")),
    "Java, Apache HttpClient": (
        FORM,
        part(PNG, 'name="data"; filename="photo.png"', OCTETS, "Content-Transfer-Encoding: binary"),
    ),
    "Java, OkHttp": (
        FORM,
        part(PNG, 'name="data"; filename="photo.png"', "Content-Type: image/*", "Content-Length: 1"),
    ),
    ".NET, ByteArrayContent": (
        'multipart/form-data; boundary="b"',
        part(PNG, "name=data; filename=p.png; filename*=utf-8''p.png"),
    ),
    ".NET, StreamContent": (FORM, part(PNG, "name=data")),
    "Ruby, Net::HTTP": (BY_DEFAULT, PNG),
    "PowerShell, -InFile": (BY_DEFAULT, PNG),
    "wget, --post-file": (BY_DEFAULT, PNG),
    "FileReader.readAsDataURL": ("text/plain;charset=UTF-8", b"data:application/octet-stream;base64," + B64),
    "canvas.toDataURL in JSON": ("application/json", b'{"data":"data:image/png;base64,' + B64 + b'"}'),
    "a data URL without a type": ("text/plain", b"data:;base64," + B64),
    "a data URL with a charset": ("text/plain", b"data:image/png;charset=utf-8;base64," + B64),
    "a data URL with parameters and blanks": (
        "text/plain",
        b"data:image/png;name=a.png;charset=utf-8; base64 ," + B64,
    ),
    "a data URL of an old type": ("text/plain", b"data:Image/X-PNG;base64," + B64),
    "base64url": ("text/plain", base64.urlsafe_b64encode(PNG)),
    "no padding": ("text/plain", B64.rstrip(b"=")),
}


@pytest.mark.parametrize(("kind", "body"), OTHERS.values(), ids=OTHERS)
def test_other_programs(target: Target, kind: str | None, body: bytes) -> None:
    """The uploads of other programs are read."""
    finds_the_sign(target.post(body, kind).json)


RAW_DEFLATE = zlib.compressobj(wbits=-15)
COMPRESSED = {
    "gzip": ("gzip", gzip.compress(PNG)),
    "gzip of JSON": ("gzip", gzip.compress(b'{"data":"' + B64 + b'"}')),
    "gzip of a form": ("x-gzip", gzip.compress(part(PNG, 'name="data"; filename="a"'))),
    "deflate": ("deflate", zlib.compress(PNG)),
    "deflate without a head": ("deflate", RAW_DEFLATE.compress(PNG) + RAW_DEFLATE.flush()),
    "identity": ("identity", PNG),
    "no coding": ("utf-8", PNG),
}


@pytest.mark.parametrize(("coding", "body"), COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_bodies(target: Target, coding: str, body: bytes) -> None:
    """A body with Content-Encoding gzip or deflate is read, whatever its form."""
    finds_the_sign(target.post(body, FORM, **{"Content-Encoding": coding}).json)


# --- mistakes


def picture_as(format: str) -> bytes:
    return file_of(Image.new("RGB", (16, 16)), format)


CONVERT = "Image.open(path).save('photo.png')"
FTYP = b"\0\0\0\x1cftyp"
FORMATS = {
    "JPEG": (picture_as("JPEG"), "This is JPEG, not PNG.", CONVERT),
    "WebP": (picture_as("WEBP"), "This is WebP, not PNG.", CONVERT),
    "GIF": (picture_as("GIF"), "This is GIF, not PNG.", CONVERT),
    "BMP": (picture_as("BMP"), "This is BMP, not PNG.", CONVERT),
    "TIFF": (picture_as("TIFF"), "This is TIFF, not PNG.", CONVERT),
    "ICO": (picture_as("ICO"), "This is ICO, not PNG.", CONVERT),
    "AVIF": (FTYP + b"avif" + bytes(40), "This is AVIF, not PNG.", CONVERT),
    "animated AVIF": (FTYP + b"avis" + bytes(40), "This is AVIF, not PNG.", CONVERT),
    "old GIF": (b"GIF87a" + bytes(40), "This is GIF, not PNG.", CONVERT),
    "TIFF of Motorola": (b"MM\0*" + bytes(40), "This is TIFF, not PNG.", CONVERT),
    "BigTIFF": (b"II+\0" + bytes(40), "This is TIFF, not PNG.", CONVERT),
    "BigTIFF of Motorola": (b"MM\0+" + bytes(40), "This is TIFF, not PNG.", CONVERT),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "This is JPEG XL, not PNG.", CONVERT),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n", "This is JPEG XL, not PNG.", CONVERT),
    "SVG after a comment": (b"\n<!-- a --> <svg>", "This is SVG, not PNG.", CONVERT),
    "HEIC": (FTYP + b"heic" + bytes(40), "This is HEIC, not PNG.", CONVERT),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "This is PDF, not PNG.", "pdftoppm"),
    "HTML": (b"\n<!DOCTYPE html><html>502 Bad Gateway</html>", "This is HTML, not PNG.", "the error page"),
    "SVG": (b"<?xml version='1.0'?><svg xmlns='x'/>", "This is SVG, not PNG.", CONVERT),
    "ZIP": (b"PK\x03\x04" + bytes(40), "This is ZIP, not PNG.", "Unpack"),
    "gzip": (gzip.compress(PNG), "This is gzip, not PNG.", "Content-Encoding: gzip"),
}


FORMATS |= {
    f"HEIC {brand}": (FTYP + brand.encode() + bytes(40), "This is HEIC, not PNG.", CONVERT)
    for brand in ("heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
}
FORMATS |= {
    f"HTML, {tag}": (tag.encode(), "This is HTML, not PNG.", "the error page") for tag in ("<HTML>", "<head>", "<body>")
}


@pytest.mark.parametrize("form", ["bytes", "base64", "data URL", "part", "JSON"])
@pytest.mark.parametrize(("file", "name", "way"), FORMATS.values(), ids=FORMATS)
def test_other_formats(target: Target, file: bytes, name: str, way: str, form: str) -> None:
    """A file of another format is named, however it comes, with the way to make it a PNG."""
    text = base64.b64encode(file)
    kind, body = {
        "bytes": ("image/png", file),
        "base64": ("text/plain", text),
        "data URL": ("text/plain", b"data:image/jpeg;base64," + text),
        "part": (FORM, part(file, 'name="data"; filename="a.png"', "Content-Type: image/png")),
        "JSON": ("application/json", b'{"data":"' + text + b'"}'),
    }[form]
    says(target.post(body, kind), "data", name, way)


def says(reply: Reply, field: str, *words: str) -> None:
    """A 400 as documented, whose only reason is about the field and contains the words; it is short and printable."""
    assert (reply.status, reply.json["message"]) == (400, "Invalid request body.")
    assert list(reply.json["details"]) == [field]
    [reason] = reply.json["details"][field]
    assert [word for word in words if word not in reason] == [], reason
    assert len(reason) < 300
    assert reason.isascii()
    assert reason.isprintable()


TWO_FILES = part(PNG, 'name="data"; filename="a.png"')[:-7] + b"\r\n" + part(PNG, 'name="{}"; filename="b.png"')
LARGE = b"\0" * (MAX_BYTES + 1 - len(PNG))
MISTAKES = {
    "line ends made of Unix": (None, PNG.replace(b"\r\n", b"\n"), "--data-binary"),
    "line ends made of Windows": (None, PNG.replace(b"\n", b"\r\n"), "--data-binary"),
    "line ends removed": (BY_DEFAULT, PNG.translate(None, b"\r\n\0"), "--data-binary"),
    "line ends changed, then base64": (None, base64.b64encode(PNG.replace(b"\r\n", b"\n")), "--data-binary"),
    "read as UTF-8": (None, PNG.decode("utf-8", "replace").encode(), "open(path, 'rb')"),
    "read as Latin-1": ("text/plain", PNG.decode("latin-1").encode(), "open(path, 'rb')"),
    "a binary string in JSON": (
        "application/json",
        json.dumps({"data": PNG.decode("latin-1").replace('"', "")}).encode(),
        "open(path, 'rb')",
    ),
    "a file's name after @": (BY_DEFAULT, b"data=@photo.b64", "The name of a file", "--data-binary"),
    "a file's name after @ in JSON": ("application/json", b'{"data":"@photo.b64"}', "The name of a file"),
    "a file's name": ("text/plain", b"photo.png", "The name of a file"),
    "a path": ("text/plain", b"/home/me/photos/cat", "The name of a file"),
    "a path of Windows": ("text/plain", b"C:\\photos\\cat.png", "The name of a file"),
    "an address": ("text/plain", b"https://example.org/cat.png", "The address of a photo", "download it"),
    "an address in JSON": ("application/json", b'{"data":"https://example.org/cat.png"}', "The address of a photo"),
    "an object of JavaScript": ("text/plain", b"[object Blob]", "The name of a variable or an object"),
    "no value in JavaScript": (FORM, part(b"undefined", 'name="data"'), "The name of a variable or an object"),
    "Python's bytes": ("text/plain", str(B64).encode(), ".decode()"),
    "UTF-16": ("text/plain", SIGN.encode("utf-16"), "UTF-16"),
    "a data URL of another type": (None, b"data:image/jpeg;base64," + B64, "has another type"),
    "a data URL without base64": (None, b"data:image/png," + B64, "data:image/png;base64,"),
    "a data URL without a comma": (None, b"data:image/png;base64" + B64, "data:image/png;base64,"),
    "half a data URL": (None, b"image/png;base64," + B64, "data:image/png;base64,"),
    "base64 escaped twice": ("text/plain", B64[:50] + b"%2B" + B64[50:], "percent signs"),
    "a wrong letter": ("text/plain", B64[:50] + b"!" + B64[50:], "'!'", "number 51"),
    "two texts": ("text/plain", B64[:50] + b"==" + B64[:50], "number 51", "Encode the whole file at once"),
    "cut off": (None, PNG[:-9], "Truncated"),
    "the field file": (FORM, part(PNG, 'name="file"; filename="a.png"'), "in the field 'data'", "'file'"),
    "the field image": (BY_DEFAULT, b"image=" + B64, "in the field 'data'", "'image'"),
    "the field photo": ("application/json", b'{"photo":"' + B64 + b'"}', "in the field 'data'", "'photo'"),
    "a field of a hostile name": (FORM, part(PNG, 'name="' + "<\U0001f4a9" * 90 + '"'), "in the field 'data'", "'<\\U"),
    "many fields": (FORM, part(PNG, 'name="a"')[:-7] * 60 + b"--b--\r\n", "in the field 'data'", "'a'"),
    "no fields": ("application/json", b"{}", "in the field 'data'", "none"),
    "two photos": (FORM, TWO_FILES.replace(b"{}", b"data"), "More than one photo"),
    "two files": (FORM, TWO_FILES.replace(b"{}", b"second"), "More than one photo"),
    "two photos in a form": (BY_DEFAULT, b"data=" + B64[:40] + b"&data=" + B64[:40], "More than one photo"),
    "a form without its boundary": ("multipart/form-data", part(PNG, 'name="data"'), "Let the HTTP library set"),
    "a form without its type": (None, part(PNG, 'name="data"'), "Let the HTTP library set"),
    "a Buffer in JSON": ("application/json", b'{"data":{"type":"Buffer","data":[137,80]}}', "as base64 text"),
    "all bytes in JSON": ("application/json", json.dumps({"data": list(PNG)}).encode(), "as base64 text"),
    "JSON with single quotes": ("application/json", b"{'data':'" + B64 + b"'}", "Not JSON", '{"data":"<base64'),
    "nothing": (None, b"", "Missing", "the bytes of a PNG file"),
    "an empty file": (FORM, part(b"", 'name="data"; filename="a.png"'), "Missing", "the bytes of a PNG file"),
    "anything": (None, bytes(range(256)), "Not a PNG image", "the bytes of a PNG file"),
    "too many bytes": (None, PNG + LARGE, f"{MAX_BYTES} bytes: {MAX_BYTES + 1}", "1000 pixels wide"),
    "too many bytes in base64": (None, base64.b64encode(PNG + LARGE), f": {MAX_BYTES + 1}", "1000 pixels wide"),
    "too many pixels": (None, png_of(Image.new("1", (2000, 600))), "2000 x 600", "1000 pixels wide"),
    "too large a body": (None, bytes(MAX_BODY + 1), f"{MAX_BODY + 1} bytes, and {MAX_BODY}", "1280 x 1280 pixels"),
    "too large a form": (
        FORM,
        part(bytes(MAX_BODY), 'name="data"; filename="a.png"'),
        f"bytes, and {MAX_BODY}",
        "1280 x 1280 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(target: Target, mistake: tuple[Any, ...]) -> None:
    """A common mistake is named, with the way out."""
    kind, body, *words = mistake
    says(target.post(body, kind), "data", *words)


ENDINGS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "heic", "avif", "b64", "base64", "txt", "PNG")
SPELLINGS = {
    "open(path, 'rb')": [PNG.decode("latin-1").encode("ascii", "replace")],
    "UTF-16": [b"\xfe\xff" + SIGN.encode("utf-16-be")],
    ".decode()": [b'b"' + B64 + b'"'],
    "Not the data URL of a PNG": [b"DATA:image/png," + B64, b";base64," + B64],
    "The address of a photo": [b"http://a/b", b"ftp://a/b", b"blob:null/1", b"s3://a/b", b"HTTPS://a/b"],
    "The name of a file": [
        *(f"a photo.{ending}".encode() for ending in ENDINGS),
        *(b"@photo", b"file:///a", b"./photos/a b", b"~/photos/a b", b"/a b", b"c:\\photos\\a", b"FILE:///a"),
    ],
    "The name of a variable": [b"null", b"None", b"NaN", b"<_io.BytesIO object at 0x7f>", b"<built-in function open>"],
    "percent signs": [
        B64[:99] + escape + B64[99:] for escape in (b"%2b", b"%2F", b"%2f", b"%3D", b"%3d", b"%0A", b"%0d")
    ],
}


@pytest.mark.parametrize(("words", "body"), [(words, body) for words, bodies in SPELLINGS.items() for body in bodies])
def test_spellings_of_mistakes(target: Target, words: str, body: bytes) -> None:
    """Each spelling of a mistake is named as that mistake."""
    says(target.post(body, "text/plain"), "data", words)


CODINGS = {
    "Brotli": ("br", PNG, "gzip, deflate or none"),
    "Zstandard": ("zstd", PNG, "gzip, deflate or none"),
    "twice": ("gzip, deflate", zlib.compress(gzip.compress(PNG)), "gzip, deflate or none"),
    "not compressed": ("gzip", PNG, "not compressed as its Content-Encoding says"),
    "cut off": ("gzip", gzip.compress(PNG)[:-9], "cut off"),
    "two of them": ("gzip", gzip.compress(PNG) * 2, "something follows its end"),
    "too much": ("gzip", gzip.compress(bytes(MAX_BODY + 1)), f"more than {MAX_BODY} bytes"),
}


@pytest.mark.parametrize(("coding", "body", "words"), CODINGS.values(), ids=CODINGS)
def test_wrong_codings(target: Target, coding: str, body: bytes, words: str) -> None:
    """A Content-Encoding that is not read, and one that is wrong, are refused for that reason."""
    says(target.post(body, **{"Content-Encoding": coding}), "data", words)


def test_curl_with_d(target: Target) -> None:
    """The mistake that `curl -d @photo.png` is, sent by curl."""
    assert "--data-binary" in curl(target, "-d", "@{png}")["details"]["data"][0]


def test_a_fraction_as_score(target: Target) -> None:
    """A fraction where percent is meant is refused, in the query and in the body."""
    for reply in (target.post(PNG, query="?min_score=0.6"), target.post(b"min_score=0.6&data=" + B64, BY_DEFAULT)):
        says(reply, "min_score", "percent", "write 60 for 0.6")


def test_parameters_in_a_form(target: Target) -> None:
    """Parameters beside the photo are used."""
    fields = {"min_score": "99.99", "limit": "5", "names": "stop sign"}
    assert requests_post(target, files={"data": PNG}, data=fields)["data"]["objects"] == []
    assert requests_post(target, json={"data": SIGN, "names": ["cat"]})["data"]["objects"] == []


def test_what_nginx_refuses(target: Target, tmp_path: Path) -> None:
    """Nginx refuses what is too large in the same words."""
    with fronting(tmp_path) as start:
        port = start(target.server.port)
        reply = call(port, OBJECTS, bytes(MAX_BODY + 1), target.token)
        says(reply, "data", f"{MAX_BODY + 1} bytes, and {MAX_BODY}", "1280 x 1280 pixels")
        assert reply.json == target.post(bytes(MAX_BODY + 1)).json
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
        pieces = iter([bytes(2**20)] * 9)
        connection.request("POST", OBJECTS, pieces, target.headers, encode_chunked=True)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        connection.close()
        says(reply, "data", f": {MAX_BODY} is the limit", "1280 x 1280 pixels")
