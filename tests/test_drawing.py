"""Annotated photos: their sizes, their files, and what drawing costs."""

import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from threading import Event, Semaphore
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from augu_api.config import Settings
from augu_api.detection import Detection
from augu_api.detection.drawing import ROWS, annotate, annotated_png, colour_of, shrunk
from augu_api.web.service import KEY
from tests.helpers import OBJECTS, FakeDetector, Headers, MakeApp, add_user_to, bearer, png_of
from tests.png_encoder import RGBA, chunk, ihdr, png

CAT = Detection("cat", (500.0, 1000.0, 3500.0, 2500.0), 0.9)


def picture_of(client: FlaskClient, headers: Headers, body: bytes, query: str = "") -> Image.Image:
    """The annotated photo that the endpoint replies with."""
    sent: dict[str, Any] = {"data": body, "content_type": "image/png", "headers": headers | {"Accept": "image/png"}}
    with client.post(f"{OBJECTS}?{query}", **sent) as reply:
        assert (reply.status_code, reply.mimetype) == (200, "image/png")
        return Image.open(BytesIO(reply.data))


@pytest.mark.parametrize(
    ("size", "query", "expected"),
    [
        ((4000, 3000), "", (2048, 1536)),
        ((3000, 4000), "", (1536, 2048)),
        ((2048, 2000), "", (2048, 2000)),
        ((2049, 3), "", (2048, 3)),
        ((20_000, 1), "", (2048, 1)),
        ((3000, 2000), "max_side=3072", (3000, 2000)),
        ((5000, 4000), "max_side=3072", (3072, 2458)),
        ((4000, 3000), "max_side=400", (400, 300)),
        ((400, 300), "max_side=64", (64, 48)),
        ((40, 30), "max_side=64", (40, 30)),
    ],
)
def test_a_picture_is_at_most_so_large(
    client: FlaskClient, auth: Headers, size: tuple[int, int], query: str, expected: tuple[int, int]
) -> None:
    """The longer side is at most 2048 pixels, or `max_side`; a smaller photo keeps its size."""
    assert picture_of(client, auth, png_of(Image.new("1", size)), query).size == expected


@pytest.mark.parametrize("value", ["63", "4097", "-1", "x", ""])
def test_max_side_is_bounded(client: FlaskClient, auth: Headers, png: bytes, value: str) -> None:
    """`max_side` is from 64 to 3072; anything else is 400, also for JSON."""
    reply = client.post(f"{OBJECTS}?max_side={value}", data=png, content_type="image/png", headers=auth)
    assert reply.status_code == 400
    assert b'"details":{"max_side":' in reply.data


def test_boxes_shrink_with_the_photo(client: FlaskClient, auth: Headers, detector: FakeDetector) -> None:
    """In a smaller picture the boxes are where they were in the photo, with lines and labels that can be read."""
    detector.found = [CAT]
    picture = np.asarray(picture_of(client, auth, png_of(Image.new("RGB", (4000, 3000), "white")), "max_side=1000"))
    rows, columns = np.nonzero((picture == colour_of("cat")).all(axis=2))
    label = 250 - rows.min()
    assert (rows.max(), columns.min(), columns.max()) == (625, 125, 875)
    assert 15 <= label <= 60
    assert (picture[300:620, 125 + np.arange(4)] == colour_of("cat")).all(axis=2).sum(axis=1).min() >= 3
    assert (picture[300:600, 200:800] == 255).all()


def test_json_has_the_boxes_of_the_photo(client: FlaskClient, auth: Headers, detector: FakeDetector) -> None:
    """`max_side` does not change the boxes in JSON, which are in pixels of the stored photo."""
    detector.found = [CAT]
    body = png_of(Image.new("1", (4000, 3000)))
    reply = client.post(f"{OBJECTS}?max_side=64", data=body, content_type="image/png", headers=auth)
    assert '"x":500.0,"y":1000.0,"width":3000.0,"height":1500.0' in reply.text


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (33, ROWS), (33, ROWS + 1), (200, 2 * ROWS - 1)])
def test_the_file_has_the_pixels_that_were_drawn(size: tuple[int, int]) -> None:
    """The PNG is what Pillow draws, whatever the sides, and the photo itself stays as it is."""
    width, height = size
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before, found = photo.copy(), [Detection("cat", (0.0, 0.0, width / 2, height / 2), 0.9)]
    with Image.open(BytesIO(annotated_png(*shrunk(photo, found, 2048)))) as image:
        assert image.tobytes() == annotate(Image.fromarray(before), found).tobytes()
    assert (photo == before).all()


def test_a_large_picture_is_cheap(make_app: MakeApp, settings: Settings) -> None:
    """A photo of 25 million pixels of 16 bits and transparency makes at most 13 MB, in a quarter of a second."""
    rows = zlib.compress(bytes(5000 * 40_001), 1)
    body = png(ihdr(5000, 5000, 16, RGBA), chunk(b"IDAT", rows), chunk(b"IEND"))
    app = make_app(settings, FakeDetector())
    headers = bearer(add_user_to(app.extensions[KEY], coefficient=1000)) | {"Accept": "image/png"}
    reply = app.test_client().post(OBJECTS, data=body, content_type="image/png", headers=headers)
    assert len(reply.data) < 13_000_000
    noise = np.random.default_rng(1).integers(0, 32, (5000, 5000, 3), dtype=np.uint8)
    noise += (np.arange(5000) // 25).astype(np.uint8)[:, np.newaxis]
    tries = []
    for _ in range(3):
        smaller = shrunk(noise, [CAT], 2048)
        start = time.process_time()
        assert len(annotated_png(*smaller)) < 13_000_000
        tries.append(time.process_time() - start)
    assert min(tries) < 0.25


class Held(str):
    """A category whose colour is not known until `go` is set."""

    __slots__ = ()
    drawn, go = Semaphore(0), Event()

    def encode(self, *args: Any) -> bytes:
        self.drawn.release()
        assert self.go.wait(30)
        return super().encode(*args)


def test_drawing_leaves_the_turn_to_the_next(make_app: MakeApp, settings: Settings, png: bytes) -> None:
    """While a picture is drawn, another user's photo is answered; pictures are drawn one at a time."""
    detector = FakeDetector([Detection(Held("cat"), (0.0, 0.0, 8.0, 8.0), 0.9)])
    app = make_app(replace(settings), detector)
    service, client = app.extensions[KEY], app.test_client()
    one, other = (bearer(add_user_to(service, name)) for name in ("one", "other"))
    sent: dict[str, Any] = {"data": png, "content_type": "image/png"}
    with ThreadPoolExecutor() as pool:
        picture = pool.submit(client.post, OBJECTS, headers=one | {"Accept": "image/png"}, **sent)
        try:
            assert Held.drawn.acquire(timeout=30)
            assert pool.submit(client.post, OBJECTS, headers=other, **sent).result(20).status_code == 200
            second = pool.submit(client.post, OBJECTS, headers=one | {"Accept": "image/png"}, **sent)
            assert not Held.drawn.acquire(timeout=1)
        finally:
            Held.go.set()
        assert picture.result(30).status_code == second.result(30).status_code == 200
