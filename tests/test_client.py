"""The Python client, against the real application, and against servers and proxies that misbehave."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader, BytesIO, StringIO
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from threading import Event
from typing import Any

import numpy as np
import pytest
from flask import Flask
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from augu_api.client import CallFailed, Client, InvalidPhoto, Item, Objects, Photo, Quota
from augu_api.client.photo import MAX_BYTES, MAX_ENCODED, prepare
from augu_api.config import ROOT, Settings
from augu_api.detection import Detection
from augu_api.flags import DEFAULT_FLAGS
from augu_api.store import accounts
from augu_api.web.service import KEY, Service
from tests.canned import HTML, TOKEN, canned, envelope, http, running
from tests.helpers import (
    BIN,
    BOTH,
    OBJECTS,
    AddUser,
    FakeDetector,
    MakeApp,
    add_user_to,
    file_of,
    free_port,
    needed,
    png_of,
    wait_until,
)
from tests.servers import Serve


@dataclass
class Time:
    """A clock that only `sleep` advances."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def never(seconds: float) -> None:
    raise AssertionError("the client must not wait here")


# --- the application


@contextmanager
def listening(app: Flask) -> Iterator[str]:
    """The address of a real server of the application."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with running(server):
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.fixture
def api(url: str, add_user: AddUser) -> Client:
    """A client of the application; a test in which it waits fails."""
    return Client(url, bare(add_user()), sleep=never)


def bare(authorization: str) -> str:
    return authorization.removeprefix("Bearer ")


def test_objects(api: Client, png: bytes) -> None:
    """The detected objects arrive as frozen values, together with the rest of the quota."""
    found = api.objects(png)
    assert found == Objects(
        (Item("person", 1.23, 2.35, 5.56, 5.54, 89.33), Item("cat", 0, 0, 8, 8, 50)), found.took, found.quota
    )
    assert found.took >= 0
    assert found.quota is not None
    assert found.quota == Quota(48, 47, found.quota.reset)
    assert 0 < found.quota.reset <= 60


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"min_score": 0}, ["person", "cat", "dog"]),
        ({"min_score": 0, "limit": 1}, ["person"]),
        ({"min_score": 50.5}, ["person"]),
        ({"names": ["dog", "cat"]}, ["cat"]),
        ({"names": "dog,cat", "min_score": 0}, ["cat", "dog"]),
        ({"names": "person"}, ["person"]),
    ],
)
def test_parameters(api: Client, png: bytes, parameters: dict[str, Any], expected: list[str]) -> None:
    """Each parameter does what the endpoint documents, both for the objects and for the annotated photo."""
    assert [item.name for item in api.objects(png, **parameters).objects] == expected
    assert api.annotated(png, **parameters).startswith(b"\x89PNG")


# --- photos


def colourful(width: int = 7, height: int = 5) -> Image.Image:
    """A photo in which no two pixels that a turn could exchange are the same."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


KINDS: dict[str, Callable[[Path], Photo]] = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "an encoded array": lambda path: np.frombuffer(path.read_bytes(), np.uint8),
    "a path": lambda path: path,
    "the text of a path": str,
    "a file": lambda path: path.open("rb"),
    "a file in memory": lambda path: BytesIO(path.read_bytes()),
    "an image": Image.open,
    "a loaded image": lambda path: Image.open(path).copy(),
    "pixels": lambda path: np.asarray(Image.open(path)),
    "pixels in another order": lambda path: np.asarray(Image.open(path))[..., ::-1].copy()[..., ::-1],
    "opaque pixels": lambda path: np.asarray(Image.open(path).convert("RGBA")),
    **{
        format: lambda path, format=format, options=options: file_of(Image.open(path), format, **options)  # type: ignore[misc]
        for format, options in {
            "BMP": {}, "GIF": {}, "ICO": {"sizes": [(7, 5)]}, "JPEG2000": {}, "PPM": {}, "TGA": {}, "TIFF": {},
            "WEBP": {"lossless": True},
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_photos(api: Client, detector: FakeDetector, tmp_path: Path, kind: Callable[[Path], Photo]) -> None:
    """A photo may be whatever holds one: the detector gets its pixels."""
    path = tmp_path / "photo.png"
    colourful().save(path)
    photo = kind(path)
    api.objects(photo)
    if isinstance(photo, BufferedReader):
        photo.close()
    assert np.array_equal(detector.seen[0], np.asarray(colourful()))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_pixels(api: Client, detector: FakeDetector, shape: tuple[int, ...]) -> None:
    """Pixels may be grey."""
    grey = np.arange(35, dtype=np.uint8)
    api.objects(grey.reshape(shape))
    assert np.array_equal(detector.seen[0], grey.reshape(5, 7, 1).repeat(3, 2))


MODES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "1": (1, (255, 255, 255)),
    "L": (100, (100, 100, 100)),
    "LA": ((100, 0), (255, 255, 255)),
    "La": ((0, 0), (255, 255, 255)),
    "P": (0, (0, 0, 0)),
    "PA": ((0, 0), (255, 255, 255)),
    "RGBA": ((10, 20, 30, 0), (255, 255, 255)),
    "RGBa": ((0, 0, 0, 0), (255, 255, 255)),
    "RGBX": ((10, 20, 30, 0), (10, 20, 30)),
    "CMYK": ((0, 255, 255, 0), (255, 0, 0)),
    "YCbCr": ((100, 128, 128), (100, 100, 100)),
    "HSV": ((0, 255, 255), (255, 0, 0)),
    "I;16": (100 * 257, (100, 100, 100)),
    "I;16B": (100 * 257, (100, 100, 100)),
    "I": (65535, (255, 255, 255)),
    "F": (0.5, (127, 127, 127)),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str) -> None:
    """An image of Pillow has any mode: transparency becomes white, and numbers of more bits are scaled to 8."""
    value, expected = MODES[mode]
    with Image.open(BytesIO(prepare(Image.new(mode, (7, 5), value)).png)) as sent:
        assert (sent.mode, sent.size, sent.getpixel((3, 3))) == ("RGB", (7, 5), expected)


def with_orientation(image: Image.Image, orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(image, format, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_orientations(api: Client, detector: FakeDetector, format: str, orientation: int) -> None:
    """A file and an image of Pillow are turned as their EXIF says, and the caller's image stays as it is."""
    file = with_orientation(colourful(), orientation, format)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(file)))
    assert upright.size == ((7, 5) if orientation < 5 else (5, 7))
    image = Image.open(BytesIO(file))
    for photo in (file, image, image):
        api.objects(photo)
        assert np.array_equal(detector.seen[-1], np.asarray(upright))


def test_a_png_that_fits_is_sent_as_it_is() -> None:
    """A PNG that is upright and not too large is not encoded again, whatever else is in it."""
    for png in (
        png_of(colourful()),
        with_orientation(colourful(), 1, "PNG"),
        png_of(Image.new("RGBA", (5000, 5000))),
        png_of(colourful(1300, 1300))[:-20],
    ):
        assert prepare(png).png == png


LARGE = {
    "a JPEG of 12 megapixels": lambda: file_of(colourful(4000, 3000), "JPEG"),
    "a JPEG that lies on its side": lambda: with_orientation(colourful(3000, 4000), 6, "JPEG"),
    "a PNG of too many bytes": lambda: png_of(colourful(4000, 3000), compress_level=1),
    "a PNG of too many pixels": lambda: png_of(Image.new("L", (8000, 6000))),
    "an image": lambda: Image.new("RGB", (4000, 3000)),
    "pixels": lambda: np.zeros((3000, 4000, 3), np.uint8),
}


@pytest.mark.parametrize("photo", LARGE.values(), ids=LARGE)
def test_large_photos(api: Client, detector: FakeDetector, photo: Callable[[], Photo]) -> None:
    """A photo that is too large is sent smaller, and the boxes are those of the caller's photo, within its edges."""
    given = photo()
    prepared = prepare(given)
    width, height = prepared.size
    assert len(prepared.png) <= MAX_BYTES
    assert 0.99 * MAX_ENCODED < width * height <= MAX_ENCODED
    large_width, large_height = prepared.upright
    assert large_width * 3 == large_height * 4
    detector.found = [
        Detection("cat", (0, 0, width, height), 0.9),
        Detection("dog", (width / 4, height / 2, width / 2, height), 0.8),
    ]
    cat, dog = api.objects(given).objects
    assert detector.seen[0].shape == (height, width, 3)
    assert (cat.x, cat.y, cat.width, cat.height) == (0, 0, large_width, large_height)
    box = (large_width / 4, large_height / 2, large_width / 4, large_height / 2)
    assert (dog.x, dog.y, dog.width, dog.height) == pytest.approx(box, abs=0.05)
    assert dog.y + dog.height <= large_height


def test_what_is_encoded_always_fits() -> None:
    """Even noise of any proportions, which does not compress, is sent within the limit."""
    for size in ((1500, 1500), (1281, 1280), (20_000, 90), (90, 20_000)):
        assert len(prepare(colourful(*size)).png) <= MAX_BYTES


def test_only_pixels_are_sent() -> None:
    """A photo that is encoded loses its EXIF block, which may say where it was taken, and its colour profile."""
    exif = Image.Exif()
    exif[0x010E] = "at home"
    jpeg = file_of(colourful(), "JPEG", exif=exif, icc_profile=b"a profile", comment=b"a comment")
    with Image.open(BytesIO(prepare(jpeg).png)) as sent:
        assert sent.info == {}


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda _: b"", "The photo is empty"),
    "an empty file": (lambda folder: folder / "empty", "The photo is empty"),
    "a file at its end": (lambda _: BytesIO(), r"seek\(0\)"),
    "a closed file": (lambda folder: closed((folder / "text").open("rb")), "cannot be read: .*closed"),
    "a text file": (lambda _: StringIO("text"), 'mode "rb"'),
    "no file": (lambda folder: folder / "none.jpg", r"at '/.*none\.jpg' cannot be read: No such file"),
    "a folder": (str, "cannot be read: Is a directory"),
    "base64": (lambda _: "iVBORw0KGgo" * 1000, "at 'iVBOR.{,200} cannot be read: File name too long"),
    "no path": (lambda _: "a\0b", "cannot be read: .*null"),
    "text": (lambda folder: folder / "text", "not an image in a format that Pillow reads"),
    "a PDF": (lambda _: b"%PDF-1.7\n", "not an image in a format that Pillow reads"),
    "HEIC": (lambda _: b"\0\0\0\x18ftypheic" + bytes(16), "pillow-heif"),
    "EPS": (lambda _: file_of(colourful(), "EPS"), "EPS, a program"),
    "half a JPEG": (lambda _: file_of(colourful(100, 100), "JPEG")[:5000], "cannot decode this photo: .*truncated"),
    "the head of a JPEG": (lambda _: b"\xff\xd8\xff\xe0 a JPEG", "not an image in a format"),
    "too many pixels": (lambda _: Image.new("1", (11_000, 11_000)), "11000 x 11000 pixels"),
    "a file of too many pixels": (lambda _: file_of(Image.new("1", (11_000, 11_000)), "TIFF"), "11000 x 11000 pixels"),
    "no pixels": (lambda _: np.zeros((0, 5, 3), np.uint8), "0 pixels"),
    "floats": (lambda _: np.zeros((5, 5, 3)), r"uint8 of shape \(H, W\), .* not 'd' of shape \(5, 5, 3\)"),
    "channels first": (lambda _: np.zeros((3, 50, 50), np.uint8), r"not 'B' of shape \(3, 50, 50\)"),
    "a number": (lambda _: 5, "A photo is .*, not int"),
    "None": (lambda _: None, "A photo is .*, not NoneType"),
    "a list": (lambda _: [1, 2], "A photo is .*, not list"),
}


def closed(file: BufferedReader) -> BufferedReader:
    file.close()
    return file


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_no_photo(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    """What is no photo is refused before anything is sent, by one kind of error with one line that says what to do."""
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("text")
    with pytest.raises(InvalidPhoto, match=message) as caught:
        Client(f"http://127.0.0.1:{free_port()}", TOKEN).objects(make(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_bound_of_ones_own() -> None:
    """A program that gets photos from strangers can allow fewer pixels."""
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN, max_decoded=34)
    with pytest.raises(InvalidPhoto, match="only of 1 to 34"):
        api.annotated(file_of(colourful(), "BMP"))


def test_annotated(api: Client, detector: FakeDetector) -> None:
    """The annotated photo has the boxes that were requested."""
    photo = Image.new("RGB", (64, 64), "navy")
    detector.found = [Detection("cat", (10, 30, 50, 60), 0.9)]
    with Image.open(BytesIO(api.annotated(photo))) as picture:
        assert picture.size == photo.size
        assert picture.getpixel((10, 60)) != photo.getpixel((10, 60))
    with Image.open(BytesIO(api.annotated(photo, min_score=95))) as picture:
        assert picture.convert("RGB").tobytes() == photo.tobytes()


def test_session_and_names(url: str, add_user: AddUser) -> None:
    """The caller's account and the categories can be read."""
    api = Client(url + "/", bare(add_user(id=2**63 - 1, coefficient=0.5)))
    session = api.session()
    assert (session.id, session.ratelimit, session.flags) == (2**63 - 1, 0.5, BOTH | DEFAULT_FLAGS)
    assert set(session.flag_names) == {flag.name for flag in BOTH | DEFAULT_FLAGS}
    assert session.quota is not None
    assert (session.quota.limit, session.quota.remaining) == (30, 29)
    assert api.names() == ("person", "cat", "dog")


def test_threads(url: str, add_user: AddUser, png: bytes) -> None:
    """Threads can share a client: each call gets its own reply."""
    api, limits = Client(url, bare(add_user())), [1, 2, 3] * 10
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda limit: api.objects(png, min_score=0, limit=limit), limits))
    assert [len(reply.objects) for reply in replies] == limits


# --- refusals


def refused(call: Callable[[], object], status: int | None) -> CallFailed:
    """The failure of a call."""
    with pytest.raises(CallFailed) as caught:
        call()
    assert caught.value.status == status
    return caught.value


def test_400(api: Client, png: bytes) -> None:
    """With a bad photo or parameter the call fails, and the details name the field and the reason."""
    failure = refused(lambda: api.objects(png[:-20]), 400)
    assert (failure.error, failure.message) == ("Bad request", "Invalid request body.")
    assert (failure.details, failure.retry_after) == ({"data": ["Truncated PNG image."]}, None)
    assert str(failure) == "400 Bad request: Invalid request body. data: Truncated PNG image."
    assert "limit" in refused(lambda: api.annotated(png, limit=0), 400).details


def test_401(url: str, png: bytes) -> None:
    """With an invalid token the call fails."""
    assert str(refused(lambda: Client(url, TOKEN).objects(png), 401)) == "401 Unauthorized: You are not authorized."


def test_401_for_a_large_photo(serve: Serve) -> None:
    """The reply of a server that refuses a body without reading it is read, although sending the body fails."""
    server = serve(WEB_CONCURRENCY="1")
    for _ in range(5):
        refused(lambda: Client(server.url, TOKEN)._call("POST", OBJECTS, {}, bytes(64 * 2**20)), 401)


def test_403(api: Client, url: str, add_user: AddUser, png: bytes) -> None:
    """A user without the flags gets a message that says so."""
    failure = refused(lambda: replace(api, token=bare(add_user("bob", DEFAULT_FLAGS))).objects(png), 403)
    assert failure.message.startswith("You do not have the flag required")


def test_a_ban(api: Client, service: Service, png: bytes) -> None:
    """A banned user learns for how long, and the call is not retried."""
    with Session(service.engine) as session, session.begin():
        accounts.ban(accounts.find(session, "alice"), 600)
    failure = refused(lambda: api.objects(png), 403)
    assert failure.message == f"You are banned for another {failure.retry_after} seconds."
    assert failure.retry_after in range(590, 601)


def test_429_then_200(api: Client, service: Service, add_user: AddUser, png: bytes) -> None:
    """After the last request of the quota the call is retried when the window has ended, as Retry-After says."""
    waited = []

    def window_ends(seconds: float) -> None:
        waited.append(seconds)
        service.quotas.limiter.storage.reset()

    api = replace(api, token=bare(add_user("bob", coefficient=1 / 60)), sleep=window_ends)
    assert api.objects(png).quota == Quota(1, 0, 60)
    assert waited == []
    assert len(api.objects(png).objects) == 2
    assert len(waited) == 1
    assert 50 < waited[0] <= 60
    failure = refused(lambda: replace(api, retries=0).objects(png), 429)
    assert failure.message == f"You have made too many requests. Please wait {failure.retry_after} seconds."


class HeldDetector(FakeDetector):
    """Does not finish a detection until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.go = Event()

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        found = super().detect(photo)
        assert self.go.wait(60)
        return found


def test_503_then_200(make_app: MakeApp, settings: Settings, png: bytes) -> None:
    """Without a free slot the call is retried a second later, and the refused request is not counted.

    Of two slots, a user gets one.
    """
    detector, waited = HeldDetector(), []
    app = make_app(replace(settings, queue=1), detector)
    token = bare(add_user_to(app.extensions[KEY]))
    with listening(app) as url, ThreadPoolExecutor(2) as threads:
        other = threads.submit(Client(url, token, retries=0).objects, png)
        wait_until(lambda: bool(detector.seen))
        wait_until(lambda: api_session_remaining(app) == 47)

        def slot_is_released(seconds: float) -> None:
            waited.append(seconds)
            detector.go.set()
            other.result(60)

        found = Client(url, token, sleep=slot_is_released).objects(png)
    assert waited == [1]
    assert found.quota is not None
    assert found.quota.remaining == 46


def api_session_remaining(app: Flask) -> int:
    """The remaining requests of the only user, read without a request."""
    service = app.extensions[KEY]
    with Session(service.engine) as session:
        remaining: int = service.quotas.left(accounts.find(session, "alice")).remaining
    return remaining


# --- servers and proxies that misbehave


BUSY = envelope(503, '"error":"Service Unavailable","message":"Busy."')
LISTED = '"error":null,"message":"Request fulfilled.","data":{"names":["cat"]}'
NAMES = http(200, envelope(200, LISTED))


@pytest.mark.parametrize(
    ("options", "slept"),
    [
        ({}, [7, 7, 7]),
        ({"retries": 5}, [7] * 5),
        ({"retries": 0}, []),
        ({"retries": 5, "max_wait": 20}, [7, 7]),
        ({"retries": 5, "max_wait": 6.9}, []),
    ],
)
def test_max_wait(options: dict[str, Any], slept: list[float]) -> None:
    """The call is retried at most `retries` times and within `max_wait` seconds; then the last failure is raised."""
    fake = Time()
    with canned(http(503, BUSY, "Retry-After: 7")) as server:
        api = Client(server.url, TOKEN, sleep=fake.sleep, clock=fake.clock, **options)
        failure = refused(api.names, 503)
    assert (failure.message, failure.retry_after) == ("Busy.", 7)
    assert fake.slept == slept
    assert len(server.seen) == len(slept) + 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_proxy_that_asks_to_wait(status: int) -> None:
    """The Retry-After of a proxy's page is respected too."""
    fake = Time()
    with canned(http(status, HTML, "Retry-After: 2"), NAMES) as server:
        assert Client(server.url, TOKEN, sleep=fake.sleep).names() == ("cat",)
    assert fake.slept == [2]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 408, 500, 502, 504])
def test_no_other_status_is_retried(status: int) -> None:
    """Other failures are not retried, whatever their Retry-After says."""
    with canned(http(status, envelope(status, '"error":"E","message":"M."'), "Retry-After: 1"), NAMES) as server:
        failure = refused(Client(server.url, TOKEN, sleep=never).names, status)
    assert (failure.error, failure.message, failure.retry_after) == ("E", "M.", 1)


@pytest.mark.parametrize("wait", ["", "soon", "-1", "1.5", "٣", "9" * 10, "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_no_number_of_seconds(wait: str) -> None:
    """Without a number in Retry-After the call is not retried."""
    with canned(http(503, BUSY, f"Retry-After: {wait}"), NAMES) as server:
        assert refused(Client(server.url, TOKEN, sleep=never).names, 503).retry_after is None


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ('{"data":["Not a PNG image."]}', " data: Not a PNG image."),
        ('{"data":["Not base64.","Empty."],"limit":["1 to 100."]}', " data: Not base64. Empty.; limit: 1 to 100."),
        ('["IMAGES_OBJECTS",1]', " IMAGES_OBJECTS 1"),
        ('"Why."', " Why."),
        ("null", ""),
        ('{"a":' * 400 + "1" + "}" * 400, " a: a: a:"),
    ],
)
def test_details(details: str, text: str) -> None:
    """The text of a failure has the details in words, of whatever shape they are."""
    with canned(http(400, envelope(400, f'"error":"E","message":"M.","details":{details}'))) as server:
        assert str(refused(Client(server.url, TOKEN).names, 400)) == f"400 E: M.{text}"


UNEXPECTED = {
    "a proxy's page": http(502, HTML, "Content-Type: text/html"),
    "another page": http(200, HTML, "Content-Type: text/html"),
    "no body": http(204, b""),
    "another status": http(200, envelope(503, LISTED)),
    "JSON of another kind": http(200, b"[1]"),
    "no data": http(200, envelope(200, '"error":null')),
    "other data": http(200, envelope(200, '"data":{"names":null}')),
    "a deep body": http(200, b"[" * 100_000),
    "no text": http(200, b"\xff\xfe\0"),
    "a status of no kind": http(799, HTML),
    "a claim of much": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
    "much": b"HTTP/1.1 200 OK\r\n\r\n" + envelope(200, LISTED).ljust(2**20 + 1),
    "much in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (2**20 + 1, envelope(200, LISTED).ljust(2**20 + 1)),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a redirect": http(302, HTML, "Location: /elsewhere"),
}


@pytest.mark.parametrize("reply", UNEXPECTED.values(), ids=UNEXPECTED)
def test_an_unexpected_reply(reply: bytes) -> None:
    """A reply that is not from the service fails the call with a message that says so and does not quote it."""
    with canned(reply) as server:
        failure = refused(Client(server.url, TOKEN, sleep=never).names, int(reply.split()[1]))
    assert failure.message.startswith(f"{server.url} does not answer as Augu API does: this ")
    assert "html" not in str(failure)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "data",
    ['{"objects":[{"name":"cat"}],"took":1}', '{"objects":{},"took":"?"}', '{"objects":[],"took":Infinity}', "3"],
)
def test_other_objects(png: bytes, data: str) -> None:
    """Objects of an unexpected shape fail the call too."""
    with canned(http(200, envelope(200, f'"data":{data}'))) as server:
        refused(lambda: Client(server.url, TOKEN).objects(png), 200)


def test_objects_may_grow(png: bytes) -> None:
    """Fields that a later service adds are ignored, and a reply without the quota is accepted."""
    item = '{"name":"cat","x":0,"y":1,"width":2,"height":3,"score":4,"colour":"black"}'
    with canned(http(200, envelope(200, f'"data":{{"objects":[{item}],"took":5,"model":"x"}}'))) as server:
        found = Client(server.url, TOKEN).objects(png)
    assert found == Objects((Item("cat", 0, 1, 2, 3, 4),), 5, None)


@pytest.mark.parametrize("body", [HTML, b"\x89PNG\r\n\x1a\n", NAMES])
def test_no_picture(png: bytes, body: bytes) -> None:
    """Only a whole PNG is accepted as an annotated photo."""
    with canned(http(200, body)) as server:
        assert refused(lambda: Client(server.url, TOKEN).annotated(png), 200).message.endswith("not a whole PNG.")


BROKEN = {
    "nothing": b"",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + NAMES.split(b"\r\n\r\n")[1],
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n{",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n?\r\n{\r\n",
    "another protocol": b"SSH-2.0-OpenSSH\r\n",
    "a header of a megabyte": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2**20,
    "a thousand headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_broken_reply(reply: bytes) -> None:
    """An incomplete reply, or one that is not HTTP, fails the call without a status, and is not retried."""
    with canned(reply) as server:
        failure = refused(Client(server.url, TOKEN, sleep=never).names, None)
    assert failure.error == "No reply"
    assert failure.message.startswith(server.url)
    assert len(server.seen) == 1


def test_a_refused_connection() -> None:
    """A refused connection fails the call, and is not retried."""
    failure = refused(Client(f"http://127.0.0.1:{free_port()}", TOKEN, sleep=never).names, None)
    assert str(failure).startswith("No reply: http://127.0.0.1:")
    assert "refused" in failure.message


def test_a_server_that_hangs() -> None:
    """A server that sends nothing for `timeout` seconds fails the call."""
    with ThreadingTCPServer(("127.0.0.1", 0), StreamRequestHandler) as server:  # accepts and never answers
        api = Client(f"http://127.0.0.1:{server.server_address[1]}", TOKEN, timeout=0.2, sleep=never)
        assert "timed out" in refused(api.names, None).message


# --- the token


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host(png: bytes, status: int) -> None:
    """Another host gets neither the token nor the photo: no redirect is followed."""
    with canned(NAMES) as other, canned(http(status, HTML, f"Location: {other.url}/")) as server:
        api = Client(server.url, TOKEN)
        for call in (api.names, api.session, lambda: api.objects(png)):
            assert "redirect" in refused(call, status).message
    assert len(server.seen) == 3
    assert other.seen == []


ECHO = envelope(418, f'"error":"{TOKEN}","message":"Bearer {TOKEN}","details":{{"{TOKEN}":["{TOKEN}"]}}')
ECHOES = {
    "in the envelope": http(418, ECHO),
    "in a page": http(502, TOKEN.encode()),
    "in no HTTP": TOKEN.encode() + b"\r\n\r\n",
    "in a redirect": http(302, b"", f"Location: http://127.0.0.1/{TOKEN}"),
    "in a reply that breaks off": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + TOKEN.encode(),
    "in a chunk's size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TOKEN.encode() + b"\r\n",
}


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
def test_the_token_is_never_shown(reply: bytes) -> None:
    """Whatever a server echoes, the token appears in no message, traceback or repr."""
    with canned(reply) as server:
        api = Client(server.url, TOKEN)
        with pytest.raises(CallFailed) as caught:
            api.session()
    assert f"Authorization: Bearer {TOKEN}".encode() in server.seen[0]
    shown = [repr(api), str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)]
    assert TOKEN not in "".join(shown)


@pytest.mark.parametrize("extra", ["\n", "\r\nX-Forged: 1", " ", "é", "\0"])
def test_no_token(extra: str) -> None:
    """A string that cannot be a token is refused at once, and not shown."""
    with pytest.raises(ValueError, match="The token") as caught:
        Client("http://127.0.0.1", TOKEN + extra)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="The token is empty"):
        Client("http://127.0.0.1", "")


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "file:///etc/passwd", "ftp://127.0.0.1", "http://", "http://u:p@127.0.0.1"),
        *("http://127.0.0.1/?a", "http://127.0.0.1#a", "http://127.0.0.1:0", "http://127.0.0.1:x", "http://a b"),
        *("http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1/a b", "http://127.0.0.1\n"),
    ],
)
def test_no_url(url: str) -> None:
    """An address that cannot be used is refused at once."""
    with pytest.raises(ValueError, match=r"url|Port|port|IPv6"):
        Client(url, TOKEN)


def test_a_path_in_front() -> None:
    """The service can be served below a path."""
    with canned(NAMES) as server:
        assert Client(f"{server.url}/augu/", TOKEN, user_agent="bot/1").names() == ("cat",)
    assert server.seen[0].startswith(b"GET /augu/images/classify/objects/names HTTP/1.1\r\n")
    assert b"User-Agent: bot/1\r\n" in server.seen[0]


def test_certificates(tmp_path: Path) -> None:
    """Over TLS the server needs a certificate that the machine trusts."""
    authority, context = needed("trustme").CA(), SSLContext(PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    code = "import sys; from augu_api.client import Client; print(Client(*sys.argv[1:]).names())"
    with canned(NAMES, context=context) as server:
        assert "certificate" in refused(Client(server.url, TOKEN).names, None).message
        env = os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        command = [sys.executable, "-c", code, server.url, TOKEN]
        assert subprocess.check_output(command, env=env, cwd=ROOT, text=True) == "('cat',)\n"
    assert len(server.seen) == 1


# --- the folder


def loads(code: str) -> set[str]:
    """The modules outside the standard library that some code imports."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    return {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_folder_stands_alone() -> None:
    """A copy of the folder needs only the standard library."""
    assert loads("sys.path[:0] = ['augu_api']\nimport client") == {"client", "client.photo", "client.replies"}


def test_old_pythons() -> None:
    """The client runs on every Python on which its distribution can be installed, and that brings Pillow alone."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["install_requires"].split() == ["pillow>=11"]
    oldest = config["options"]["python_requires"].removeprefix(">=")
    needed("vermin")
    command = [str(BIN / "vermin"), f"--target={oldest}-", "--violations", "--no-tips"]
    files = ["augu_api/__init__.py", "augu_api/client", "augu_api/operating/__init__.py"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_without_the_server() -> None:
    """Where only the client is installed, the command line says so in one line."""
    code = "import sys; sys.modules['click'] = None; from augu_api.operating import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .*click.*: pip install 'augu-api\[server\]'\n", done.stderr)


def test_without_pillow(png: bytes) -> None:
    """Without Pillow a PNG is sent, and another photo is refused in one line that names Pillow."""
    code = (
        "import sys; sys.path[:0] = ['augu_api']; from client import Client\n"
        "api = Client(*sys.argv[1:])\n"
        "print(api.objects(bytes.fromhex(sys.stdin.readline())).objects)\n"
        "try: api.objects(b'JPEG')\n"
        "except ValueError as error: print(error)"
    )
    with canned(http(200, envelope(200, '"data":{"objects":[],"took":5}'))) as server:
        command = [sys.executable, "-S", "-c", code, server.url, TOKEN]
        shown = subprocess.check_output(command, cwd=ROOT, text=True, input=f"{png.hex()}\n").splitlines()
    assert len(server.seen) == 1
    assert shown[0] == "()"
    assert re.fullmatch("Without Pillow a photo must be a PNG .*: pip install pillow", shown[1])


def test_the_import_is_light() -> None:
    """Importing the client from the package loads nothing else of the package, and no other package."""
    own = {"augu_api.client", "augu_api.client.photo", "augu_api.client.replies"}
    assert loads("import augu_api.client") == {"augu_api", *own}
