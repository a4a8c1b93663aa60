"""DeepStack's protocol: its replies, the formats of the photos, and hostile requests."""

import json
import logging
import os
import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from augu_api.config import Settings
from augu_api.detection import Detection
from augu_api.flags import Flag
from augu_api.photos import MAX_BYTES, ImageRejected, decode_upright
from augu_api.photos.jpeg import MAX_SCANS
from augu_api.web.body import MAX_BODY
from augu_api.web.deepstack_callers import MAX_PARTS, MAX_TEXT
from augu_api.web.service import Service
from tests.helpers import (
    DETECTION,
    MULTIPART,
    OBJECTS,
    AddUser,
    FakeDetector,
    MakeApp,
    file_of,
    full,
    multipart,
    no_file_beyond,
    says,
)
from tests.hostile import MB, SECONDS, Case, ask, ask_again, raw
from tests.hostile_photos import ABSURD, JPEG, NAVY, PNG, canvas, gif, photos, repeated, rle
from tests.servers import Server, add

ORIENTATION = 0x0112
Send = Callable[..., TestResponse]


WEBP = file_of(NAVY, "WEBP")


@pytest.fixture
def send(client: FlaskClient, token: str) -> Send:
    """Send an image, or none, with the token in the form: `send(JPEG, min_confidence="0.5")`."""

    def post(image: bytes | None = JPEG, /, **fields: str) -> TestResponse:
        parts: dict[str, Any] = {name: (None, text) for name, text in ({"api_key": token} | fields).items()}
        files = parts if image is None else parts | {"image": image}
        sent = requests.Request("POST", "http://localhost", files=files).prepare()
        return client.post(DETECTION, data=sent.body, content_type=sent.headers["Content-Type"])

    return post


def fails(response: TestResponse, status: int, error: str) -> None:
    """The failure has exactly DeepStack's shape."""
    assert response.status_code == status
    assert response.text == (
        f'{{"success":false,"error":"{error}","duration":0,"message":"{error}","code":{response.status_code}}}'
    )
    assert response.content_type == "application/json"


# --- the reply and the gates

REPLY = (
    '{"success":true,"predictions":['
    '{"confidence":0.8933,"label":"person","y_min":2,"x_min":1,"y_max":8,"x_max":7},'
    '{"confidence":0.5,"label":"cat","y_min":0,"x_min":0,"y_max":8,"x_max":8}],"duration":0,'
    '"message":"Found person, cat.","count":2,"inferenceMs":0,"processMs":0,"analysisRoundTripMs":0,'
    '"code":200,"command":"detect","moduleId":"AuguAPI","moduleName":"Augu API","executionProvider":"CPU"}'
)


def test_the_reply_is_as_documented(send: Send) -> None:
    """The reply is exact to the byte: best first, boxes in whole pixels, scores from 0.4, and the remaining quota."""
    response = send()
    assert re.sub(r'(?<=Ms":)\d+', "0", response.text) == REPLY
    assert response.content_type == "application/json"
    assert response.headers["X-Ratelimit-Remaining"] == "59999"


def test_boxes_are_whole_pixels_within_the_image(send: Send, detector: FakeDetector) -> None:
    """Even a thin box has whole sides within the image and an area above 0."""
    boxes = [(0.0, 0.0, 8.0, 8.0), (7.6, 7.6, 7.7, 8.0), (0.0, 3.99, 0.02, 4.01), (1.0, 2.0, 3.0, 4.0)]
    detector.found = [Detection("cat", box, 0.9) for box in boxes]
    names = ("x_min", "y_min", "x_max", "y_max")
    predictions = json.loads(send().data)["predictions"]
    assert [tuple(p[name] for name in names) for p in predictions] == [
        (0, 0, 8, 8),
        (7, 7, 8, 8),
        (0, 3, 1, 5),
        (1, 2, 3, 4),
    ]


@pytest.mark.parametrize(
    ("min_confidence", "scores"),
    [
        (None, [0.9, 0.4]),
        ("0", [0.9, 0.4, 0.07]),
        ("0.07", [0.9, 0.4, 0.07]),
        ("0.071", [0.9, 0.4]),
        ("0.41", [0.9]),
        ("1", []),
        ("", [0.9, 0.4]),
        (" ", [0.9, 0.4]),
    ],
)
def test_min_confidence_is_a_lower_bound(
    send: Send, detector: FakeDetector, min_confidence: str | None, scores: list[float]
) -> None:
    """`min_confidence` is from 0 to 1, inclusive, with a default of 0.4."""
    detector.found = [Detection("cat", (0, 0, 8, 8), score) for score in (0.9, 0.4, 0.07)]
    response = send(**({} if min_confidence is None else {"min_confidence": min_confidence}))
    assert [prediction["confidence"] for prediction in json.loads(response.data)["predictions"]] == scores


@pytest.mark.parametrize(
    ("authorization", "api_key", "status"),
    [
        ("Bearer {}", None, 200),
        ("Bearer {}", "", 200),
        (None, "{}", 200),
        ("Basic YTpi", "{}", 200),
        ("Bearer {}", "wrong", 200),
        ("Bearer wrong", "{}", 401),
        (None, None, 401),
        (None, "", 401),
        (None, "wrong", 401),
        (None, "Bearer {}", 401),
        (None, "ä.ö.ü", 401),
        (None, " {}\r\n", 200),
        ("Bearer  {} ", None, 200),
    ],
)
def test_the_token_comes_in_the_header_or_in_the_form(
    client: FlaskClient, token: str, authorization: str | None, api_key: str | None, status: int
) -> None:
    """The token is taken from the Authorization header if it has one, else from the field `api_key`."""
    headers = {} if authorization is None else {"Authorization": authorization.format(token)}
    form: dict[str, Any] = {} if api_key is None else {"api_key": api_key.format(token)}
    response = client.post(DETECTION, data=form | {"image": (BytesIO(JPEG), "a.jpg")}, headers=headers)
    assert response.status_code == status
    if status == 401:
        fails(response, 401, "You are not authorized.")
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_it_is_off_by_default(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> None:
    """Without AUGU_DEEPSTACK=1 there is no such route and no documentation of one."""
    client = make_app(Settings.from_env({"AUGU_DATA_DIR": str(settings.data_dir)}), detector).test_client()
    says(client.post(DETECTION), 404, "Not Found", "There is nothing here.")
    assert DETECTION not in json.loads(client.get("/openapi.json").data)["paths"]


def test_a_missing_flag_is_403(client: FlaskClient, add_user: AddUser) -> None:
    """A user needs the same two flags as for our own endpoint."""
    flags = {Flag.IMAGES_OBJECTS: "EXPERIMENTAL", Flag.EXPERIMENTAL: "IMAGES_OBJECTS"}
    for flag, other in flags.items():
        headers = {"Authorization": add_user(f"only-{flag.name}", flag)}
        response = client.post(DETECTION, headers=headers)
        fails(
            response,
            403,
            "You do not have the flag required to access this endpoint. Please refer to the documentation at "
            "http://localhost/docs for more information. "
            f"flags: Missing: {other}. The operator of this service can grant what is missing.",
        )


def test_an_exhausted_quota_is_429(client: FlaskClient, add_user: AddUser) -> None:
    """Both endpoints share one quota, and a 429 has Retry-After."""
    headers = {"Authorization": add_user(coefficient=1 / 60)}
    assert client.post(OBJECTS, data=PNG, content_type="image/png", headers=headers).status_code == 200
    response = client.post(DETECTION, headers=headers)
    seconds = response.headers["Retry-After"]
    fails(response, 429, f"You have made too many requests. Please wait {seconds} seconds.")
    assert 0 < int(seconds) <= 60
    assert response.headers["X-Retry-After"] == seconds
    assert response.headers["X-Ratelimit-Remaining"] == "0"


def test_a_full_queue_is_503(send: Send, service: Service) -> None:
    """Without a free slot the reply is 503 with Retry-After, and the request is not counted."""
    with full(service):
        response = send()
    fails(response, 503, "Too many requests are waiting. Please try again later.")
    assert response.headers["Retry-After"] == "1"
    assert response.headers["X-Ratelimit-Remaining"] == "60000"


def test_it_is_measured(send: Send, caplog: pytest.LogCaptureFixture) -> None:
    """Its objects are counted in the metrics, and each request has a log line with the user and the route."""
    caplog.set_level(logging.INFO, "augu_api.requests")
    before = REGISTRY.get_sample_value("augu_objects_total", {"name": "cat"}) or 0
    send()
    assert REGISTRY.get_sample_value("augu_objects_total", {"name": "cat"}) == before + 1
    [record] = [record for record in caplog.records if record.message == "request"]
    assert (record.__dict__["route"], record.__dict__["status"]) == (DETECTION, 200)
    assert record.__dict__["user"]


# --- what is refused


DEEP_TIFF = "TIFFs with samples of more than 8 bits are not accepted."
NO_TIFF = "Only TIFFs in strips that are not compressed, or with LZW or deflate, are accepted."
CORRUPT, NO_FORMAT = "image: Truncated or corrupt image.", "image: Not an image of an accepted format."
NO_FORM = f"data: Not a form of at most {MAX_PARTS} parts, each with a short head."
BAD_NUMBER = "min_confidence: Not a valid number."
OUT_OF_RANGE = "min_confidence: Must be greater than or equal to 0 and less than or equal to 1."
BAD = {
    "no image": (None, {}, "image: Missing."),
    "an empty image": (b"", {}, "image: Missing."),
    "a text": (None, {"image": "cat.jpg"}, "image: Not a file."),
    "not an image": (b"hello", {}, NO_FORMAT),
    "a PCX": (file_of(NAVY, "PCX"), {}, NO_FORMAT),
    "a BigTIFF": (b"II+\0\x08\0\0\0" + bytes(40), {}, NO_FORMAT),
    "a TIFF of another order": (file_of(NAVY, "TIFF").replace(b"II*\0", b"II\0*", 1), {}, NO_FORMAT),
    "a JPEG in a TIFF": (file_of(NAVY, "TIFF", compression="jpeg"), {}, f"image: {NO_TIFF}"),
    "a TIFF of 16 bits": (
        file_of(NAVY.convert("I;16"), "TIFF"),
        {},
        f"image: {DEEP_TIFF}",
    ),
    "a compressed BMP": (rle(8), {}, "image: Compressed BMPs are not accepted."),
    "a GIF of too many pixels": (gif(65535, 65535), {}, "image: More than 25000000 pixels: 65535 x 65535."),
    "a GIF without an image": (file_of(NAVY, "GIF")[:13] + b";", {}, CORRUPT),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', {}, NO_FORMAT),
    "half a JPEG": (JPEG[:-20], {}, CORRUPT),
    "half a progressive JPEG": (file_of(NAVY, "JPEG", progressive=True)[:-20], {}, CORRUPT),
    "a JPEG of tables": (JPEG[:200], {}, CORRUPT),
    "half a PNG": (PNG[:-20], {}, "image: Truncated PNG image."),
    "half a WebP": (WEBP[:-20], {}, CORRUPT),
    "a WebP of another length": (WEBP[:4] + b"\0\0\0\1" + WEBP[8:], {}, CORRUPT),
    "5 MB of JPEG": (JPEG + bytes(MAX_BYTES), {}, f"image: Larger than {MAX_BYTES} bytes."),
    "too many scans": (repeated(NAVY, MAX_SCANS + 1), {}, f"image: More than {MAX_SCANS} scans."),
    "an arithmetic JPEG": (
        JPEG.replace(b"\xff\xc0", b"\xff\xc9"),
        {},
        "image: Arithmetic-coded JPEGs are not accepted.",
    ),
    "a JPEG of too many pixels": (
        ABSURD,
        {},
        "image: More than 25000000 pixels: 65500 x 65500.",
    ),
    "a WebP of too many pixels": (canvas(65535, 65535), {}, "image: More than 25000000 pixels: 65535 x 65535."),
    "no number": (JPEG, {"min_confidence": "high"}, BAD_NUMBER),
    "a percent": (JPEG, {"min_confidence": "45"}, OUT_OF_RANGE),
    "below 0": (JPEG, {"min_confidence": "-0.1"}, OUT_OF_RANGE),
    "two reasons": (b"hello", {"min_confidence": "high"}, f"{NO_FORMAT} {BAD_NUMBER}"),
    "too many parts": (JPEG, {f"a{n}": "" for n in range(MAX_PARTS)}, NO_FORM),
    "a long head": (JPEG, {"a" * 1000: ""}, NO_FORM),
    "too long a text": (JPEG, {"a": "a" * (MAX_TEXT + 1)}, "data: The body is too large."),
    "too long a body": (bytes(MAX_BODY), {}, "data: The body is too large."),
}


@pytest.mark.parametrize(("image", "fields", "reason"), BAD.values(), ids=BAD)
def test_a_bad_form_is_400_and_says_why(
    send: Send, detector: FakeDetector, image: bytes | None, fields: dict[str, str], reason: str
) -> None:
    """Every bad form is 400 with the field and the reason, in DeepStack's shape."""
    fails(send(image, **fields), 400, reason)
    assert not detector.seen


def test_not_a_number_is_refused(send: Send) -> None:
    """NaN is not accepted as `min_confidence`."""
    for text in ("nan", "inf", "-inf"):
        assert send(min_confidence=text).status_code == 400


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_bound_on_pixels_is_inclusive(format: str) -> None:
    """A photo may have exactly the allowed number of pixels, and not one more."""
    image = file_of(Image.new("RGB", (8, 7)), format)
    assert decode_upright(image, 56).shape == (7, 8, 3)
    with pytest.raises(ImageRejected, match="More than 55 pixels: 8 x 7"):
        decode_upright(image, 55)


def test_a_trusted_file_may_be_of_any_format_and_length() -> None:
    """The command line, which trusts its photos, accepts every format that Pillow knows."""
    for image in (file_of(NAVY, "PCX"), file_of(NAVY, "TIFF", compression="packbits"), JPEG + bytes(MAX_BYTES)):
        with pytest.raises(ImageRejected):
            decode_upright(image, 64)
        assert decode_upright(image, 64, trusted=True).shape == (8, 8, 3)
    with pytest.raises(ImageRejected, match="More than 63 pixels"):
        decode_upright(JPEG, 63, trusted=True)


NOISE = Image.frombytes("RGB", (24, 16), bytes(n * n * 31 % 251 for n in range(24 * 16 * 3)))
WHOLE = {
    "baseline": file_of(NOISE, "JPEG"),
    "progressive": file_of(NOISE, "JPEG", progressive=True),
    "PNG": file_of(NOISE, "PNG"),
    "lossy": file_of(NOISE, "WEBP"),
    "lossless": file_of(NOISE, "WEBP", lossless=True),
    "BMP": file_of(NOISE, "BMP"),
    "GIF": file_of(NOISE, "GIF"),
    "TIFF": file_of(NOISE, "TIFF"),
    "deflated": file_of(NOISE, "TIFF", compression="tiff_adobe_deflate"),
    "LZW": file_of(NOISE, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_a_truncated_file_is_never_shown_in_part(whole: bytes) -> None:
    """A truncated file is refused, or has all its pixels if only its end marker is missing."""
    pixels = decode_upright(whole, 1000).tobytes()
    for length in range(len(whole) - 2):
        with pytest.raises(ImageRejected):
            decode_upright(whole[:length], 1000)
    for length in (len(whole) - 2, len(whole) - 1):
        try:
            assert decode_upright(whole[:length], 1000).tobytes() == pixels
        except ImageRejected:
            assert whole != WHOLE["baseline"], "a JPEG that lacks only its end marker is read"


# --- formats and orientation


class Finder(FakeDetector):
    """Detects the bright part of a photo."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """The box around all bright pixels."""
        box = Image.fromarray(photo).convert("L").point(lambda value: 255 * (value > 128)).getbbox()
        assert box
        x1, y1, x2, y2 = map(float, box)
        return [Detection("cat", (x1, y1, x2, y2), 0.9)]


SCENE = np.zeros((32, 48, 3), np.uint8)
SCENE[8:16, 16:40] = 255
BOX = {"x_min": 16, "y_min": 8, "x_max": 40, "y_max": 16}
STORED = {  # EXIF 2.32, table 6: where the stored row 0 and column 0 are seen
    1: SCENE,  # top, left
    2: SCENE[:, ::-1],  # top, right
    3: SCENE[::-1, ::-1],  # bottom, right
    4: SCENE[::-1],  # bottom, left
    5: SCENE.swapaxes(0, 1),  # left, top
    6: SCENE[:, ::-1].swapaxes(0, 1),  # right, top
    7: SCENE[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: SCENE[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_boxes_are_those_of_the_upright_photo(
    make_app: MakeApp, settings: Settings, token: str, orientation: int, format: str
) -> None:
    """Boxes refer to the upright photo, for each EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    image = file_of(stored, format, exif=exif, quality=100, **({"lossless": True} if format == "WEBP" else {}))
    finding = make_app(settings, Finder()).test_client()
    reply = finding.post(DETECTION, data={"api_key": token, "image": (BytesIO(image), "a")})
    [prediction] = json.loads(reply.data)["predictions"]
    assert {side: prediction[side] for side in BOX} == BOX


def test_a_broken_tag_does_not_matter() -> None:
    """A photo is rotated by its EXIF orientation even if another tag has the wrong type."""
    tags = struct.pack("<HHII", 0x010F, 11, 1, 0) + struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    assert decode_upright(file_of(Image.new("RGB", (8, 4)), "JPEG", exif=exif), 100).shape == (8, 4, 3)
    assert decode_upright(file_of(Image.new("RGB", (8, 4)), "WEBP", exif=exif), 100).shape == (8, 4, 3)


def frames(format: str) -> bytes:
    """Two images in a file, the first of them brown."""
    return file_of(BROWN, format, save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")])


BROWN = Image.new("RGB", (16, 16), (150, 100, 50))
FAINT = Image.new("RGBA", (16, 16), (150, 100, 50, 51))
SEEN = {
    "PNG": (file_of(BROWN, "PNG"), (150, 100, 50)),
    "transparent PNG": (file_of(FAINT, "PNG"), (234, 224, 214)),
    "JPEG": (file_of(BROWN, "JPEG"), (150, 100, 50)),
    "progressive JPEG": (file_of(BROWN, "JPEG", progressive=True), (150, 100, 50)),
    "JPEG of as many scans as are allowed": (repeated(BROWN, MAX_SCANS), (150, 100, 50)),
    "JPEG of two images": (frames("MPO"), (150, 100, 50)),
    "JPEG with something behind it": (file_of(BROWN, "JPEG") + b"\xff\xda" * 1000, (150, 100, 50)),
    "JPEG with a comment": (file_of(BROWN, "JPEG", comment=b"\xff\xda\xff\xc9" * 1000), (150, 100, 50)),
    "grey JPEG": (file_of(BROWN.convert("L"), "JPEG"), (109, 109, 109)),
    "CMYK JPEG": (file_of(BROWN.convert("CMYK"), "JPEG"), (150, 100, 50)),
    "WebP": (file_of(BROWN, "WEBP"), (150, 100, 50)),
    "lossless WebP": (file_of(BROWN, "WEBP", lossless=True), (150, 100, 50)),
    "transparent WebP": (file_of(FAINT, "WEBP", lossless=True), (234, 224, 214)),
    "animated WebP": (frames("WEBP"), (150, 100, 50)),
    "BMP": (file_of(BROWN, "BMP"), (150, 100, 50)),
    "BMP of a palette": (file_of(BROWN.quantize(), "BMP"), (150, 100, 50)),
    "GIF": (file_of(BROWN, "GIF"), (150, 100, 50)),
    "transparent GIF": (file_of(Image.new("RGBA", (16, 16)), "GIF"), (255, 255, 255)),
    "animated GIF": (frames("GIF"), (150, 100, 50)),
    "GIF with a comment": (file_of(BROWN, "GIF", comment=b"," * 1000), (150, 100, 50)),
    "TIFF": (file_of(BROWN, "TIFF"), (150, 100, 50)),
    "deflated TIFF": (file_of(BROWN, "TIFF", compression="tiff_adobe_deflate"), (150, 100, 50)),
    "LZW TIFF": (file_of(BROWN, "TIFF", compression="tiff_lzw"), (150, 100, 50)),
    "transparent TIFF": (file_of(FAINT, "TIFF"), (234, 224, 214)),
    "CMYK TIFF": (file_of(BROWN.convert("CMYK"), "TIFF"), (150, 100, 50)),
}


@pytest.mark.parametrize(("image", "colour"), SEEN.values(), ids=SEEN)
def test_every_format_is_seen_in_its_colours(
    send: Send, detector: FakeDetector, image: bytes, colour: tuple[int, int, int]
) -> None:
    """The detector gets RGB, with transparency over white, and the first image of several."""
    assert send(image).status_code == 200
    [seen] = detector.seen
    assert seen.shape == (16, 16, 3)
    assert np.abs(seen.astype(int) - colour).max() <= 8


def test_a_photo_is_neither_stored_nor_logged(
    client: FlaskClient, token: str, detector: FakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    """A photo that many servers would write to a temporary file is written to no file and no log."""
    caplog.set_level(logging.DEBUG)
    large = file_of(Image.frombytes("RGB", (700, 700), os.urandom(700 * 700 * 3)), "JPEG", quality=100)
    assert len(large) > 900_000
    body = multipart(large, 'name="image"; filename="a.jpg"', "image/jpeg")
    headers = {"Authorization": f"Bearer {token}"}
    client.get("/session", headers=headers)  # opens the database
    with no_file_beyond(len(body) // 2):
        assert client.post(DETECTION, data=body, content_type=MULTIPART, headers=headers).status_code == 200
    assert detector.seen
    assert repr(large[1000:1020])[2:-1] not in caplog.text


# --- hostile requests


def form(body: bytes, name: str = "image") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % (
        name.encode(),
        body,
    )


def cases(token: str) -> dict[str, Case]:
    """These photos, malformed forms, and forms without a valid token."""
    known: dict[str, str | bytes] = {"Authorization": f"Bearer {token}"}
    part = b'--b\r\nContent-Disposition: form-data; name="a"%b\r\n\r\nb\r\n'
    anonymous = {
        "9 MB": (form(bytes(9 * MB)), 400),
        "8 MB": (form(bytes(8 * MB - 200)), 401),
        "8 MB of line breaks": (form(b"\r\n" * (4 * MB - 200)), 401),
        "8 MB of boundaries": (form(b"\r\n--b " * (MB + 200_000)), 400),
        "8 MB before a boundary": (b"\r\n--" * (2 * MB - 200), 400),
        "8 MB of headers": (b"--b\r\n" + b"a\r\n" * (2 * MB), 400),
        "8 MB of options": (part % (b";a=b" * (2 * MB - 200)), 400),
        "headers in each part": (part % (b"\r\na" * 20_000) * 100, 400),
        "many parts": (part % b"" * 20_000, 400),
        "no boundary": (b"--c\r\n" * MB, 400),
    }
    found = {f"photo {name}": Case(request(form(image), known), status) for name, image, status in photos()}
    found |= {f"{name} without a token": Case(request(body), status) for name, (body, status) in anonymous.items()}
    form_type: dict[str, str | bytes] = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Transfer-Encoding": "chunked",
    }
    line = f"POST {DETECTION} HTTP/1.1"
    found["broken chunks without a token"] = Case(raw(line, form_type, b"ZZ\r\nabc\r\n"), 400)
    found["a million chunks without a token"] = Case(raw(line, form_type, b"1\r\nA\r\n" * MB + b"0\r\n\r\n"), 400)
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    fields = b"a=b&" * (2 * MB - 200) + b"api_key=" + token.encode()
    found["fields without a token"] = Case(request(fields, urlencoded), 401)
    found["fields"] = Case(request(fields, known | urlencoded), 400)
    return found


def request(body: bytes, headers: dict[str, Any] | None = None) -> bytes:
    fields = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(len(body))}
    return raw(f"POST {DETECTION} HTTP/1.1", fields | (headers or {}), body)


def test_hostile_forms_are_answered_soon(server: Server) -> None:
    """Each is answered within four seconds in DeepStack's shape, and the worker survives without logging an error."""
    token = add(server, coefficient=1000)
    assert ask(server.port, Case(request(form(JPEG), {"Authorization": f"Bearer {token}"}), 200))[0] == 200
    (worker,) = server.workers
    wrong = {}
    for name, case in cases(token).items():
        status, body, seconds = ask_again(server.port, case)
        if status != case.status or json.loads(body)["success"] is not (status == 200) or seconds >= 2 * SECONDS:
            wrong[name] = status, body[:200], seconds
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())
    assert server.workers == [worker]
    assert all(json.loads(line)["level"] == "INFO" for line in server.log.read_text().splitlines() if line[0] == "{")
    assert "Warning" not in server.log.read_text()
