"""The HTTP contract, end to end with a fake detector: bodies, replies, gates and headers as documented."""

import base64
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.detection import Detection
from augu_api.flags import Flag
from augu_api.photos import MAX_BYTES
from augu_api.store import accounts
from augu_api.web.body import MAX_BODY, MAX_FIELDS
from augu_api.web.service import KEY, Service
from tests.helpers import (
    BAD_TOKEN,
    BOTH,
    BOUNDARY,
    MULTIPART,
    OBJECTS,
    AddUser,
    FakeDetector,
    Headers,
    MakeApp,
    add_user_to,
    bearer,
    free_port,
    full,
    multipart,
    no_file_beyond,
    png_of,
    says,
)

NAMES, SESSION = f"{OBJECTS}/names", "/session"
WAIT = "Retry-After", "X-Retry-After"


def reasons(response: TestResponse) -> dict[str, list[str]]:
    """The `details` of a 400 whose other properties are as documented."""
    body = json.loads(response.data)
    assert response.status_code == 400
    assert list(body) == ["statusCode", "error", "message", "details"]
    assert (body["statusCode"], body["error"], body["message"]) == (400, "Bad request", "Invalid request body.")
    found: dict[str, list[str]] = body["details"]
    return found


# --- the forms of a body


def noisy_png() -> bytes:
    """A PNG whose base64 has both a plus and a slash."""
    data = png_of(Image.frombytes("RGB", (16, 16), bytes(n * n * 31 % 251 for n in range(768))))
    assert {"+", "/"} <= set(base64.b64encode(data).decode())
    return data


PNG = noisy_png()
PIXELS = Image.open(BytesIO(PNG)).tobytes()
B64 = base64.b64encode(PNG)
WRAPPED = b"".join(B64[at : at + 60] + b"  \r\n" for at in range(0, len(B64), 60)) + b" \t\n"
ESCAPED = B64.replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")
URL_SAFE = base64.urlsafe_b64encode(PNG).rstrip(b"=")
URLENCODED, AS_JSON = "application/x-www-form-urlencoded", "application/json"
BOM = b"\xef\xbb\xbf"


def as_json(data: Any) -> bytes:
    return json.dumps({"other": 1, "data": data}).encode()


ANY_TYPE = [None, "text/plain", URLENCODED, AS_JSON, MULTIPART, "multipart/form-data", "image/png", "image/jpeg"]
ANY_TYPE += ["application/octet-stream", "text/html; charset=utf-16", "application/problem+json", "nonsense"]
FORMS = {f"raw as {kind}": (kind, WRAPPED) for kind in ANY_TYPE} | {
    "raw on one line": (URLENCODED, B64),
    "raw after a byte order mark": ("text/plain", BOM + WRAPPED),
    "raw between blanks": ("text/plain", b"\n \f\v" + B64 + b"\t \n"),
    "data URL": ("text/plain", b"data:image/png;base64," + WRAPPED),
    "data URL in capitals": (URLENCODED, b" \nDATA:image/PNG;BASE64,\n" + B64),
    "bytes": ("image/png", PNG),
    "bytes with a parameter": ("Image/PNG; charset=binary", PNG),
    "JSON": (AS_JSON, as_json(B64.decode())),
    "JSON, wrapped": ("application/json; charset=utf-8", as_json(WRAPPED.decode())),
    "JSON, data URL": (AS_JSON, as_json("data:image/png;base64," + B64.decode())),
    "JSON as a form": (URLENCODED, b"\n " + as_json(B64.decode())),
    "JSON as text": ("text/plain", as_json(B64.decode())),
    "JSON after a byte order mark": (AS_JSON, BOM + as_json(B64.decode())),
    "JSON with escaped slashes": (AS_JSON, as_json(B64.decode()).replace(b"/", rb"\/")),
    "form": (URLENCODED, b"data=" + ESCAPED),
    "form among other fields": (URLENCODED, b"a=1&data=" + ESCAPED + b"&b=%FF"),
    "form, plus not escaped": (URLENCODED, b"data=" + B64),
    "form, plus turned into a blank": (URLENCODED, b"data=" + B64.replace(b"+", b" ")),
    "form, line breaks escaped": (URLENCODED, b"data=%0D%0A" + ESCAPED[:4] + b"%0A" + ESCAPED[4:] + b"++%0A"),
    "form, line breaks not escaped": (URLENCODED, b"data=\n" + B64[:60] + b"\r\n" + B64[60:] + b"\n"),
    "form, data URL": ("application/x-www-form-urlencoded; charset=utf-8", b"data=data:image/png;base64," + B64),
    "multipart field": (MULTIPART, multipart(WRAPPED)),
    "multipart field, data URL": (MULTIPART, multipart(b"data:image/png;base64," + B64)),
    "multipart file of bytes": (MULTIPART, multipart(PNG, 'name="data"; filename="a.png"', "image/png")),
    "multipart file of base64": (MULTIPART, multipart(WRAPPED, 'name="data"; filename="a.b64"', "text/plain")),
    "multipart file, base64 in a .png": (MULTIPART, multipart(WRAPPED, 'name="data"; filename="a"', "image/png")),
    "bytes of any type": ("application/octet-stream", PNG),
    "bytes without a type": (None, PNG),
    "bytes as curl labels them": (URLENCODED, PNG),
    "bytes as JSON": (AS_JSON, PNG),
    "bytes as a form without a boundary": ("multipart/form-data", PNG),
    "form of bytes": (URLENCODED, b"a=1&data=" + quote_plus(PNG).encode()),
    "multipart file of bytes without a type": (MULTIPART, multipart(PNG, 'name="data"; filename="a"')),
    "multipart file of bytes of another type": (
        MULTIPART,
        multipart(PNG, 'name="data"; filename="a.gif"', "image/gif"),
    ),
    "multipart field of bytes": (MULTIPART, multipart(PNG)),
    "multipart field of bytes with a type": (MULTIPART, multipart(PNG, mimetype="application/octet-stream")),
    "base64url": ("text/plain", URL_SAFE),
    "base64url as JSON": (AS_JSON, as_json(URL_SAFE.decode())),
    "without padding": ("text/plain", WRAPPED.replace(b"=", b"")),
    "data URL without a type": ("text/plain", b"data:;base64," + B64),
    "data URL with a parameter": (AS_JSON, as_json("data:image/png;charset=utf-8;base64," + B64.decode())),
    "data URL of bytes": (URLENCODED, b"data=data:application/octet-stream;base64," + ESCAPED),
    "multipart file without a type": (MULTIPART, multipart(WRAPPED, 'name="data"; filename="../../a"')),
}


@pytest.mark.parametrize(("content_type", "body"), FORMS.values(), ids=FORMS)
def test_each_form_of_a_body_is_the_same_photo(
    client: FlaskClient, auth: Headers, detector: FakeDetector, content_type: str | None, body: bytes
) -> None:
    """However the photo is sent, the detector sees its pixels."""
    response = client.post(OBJECTS, data=body, content_type=content_type, headers=auth)
    assert response.status_code == 200, response.text
    assert [photo.tobytes() for photo in detector.seen] == [PIXELS]


NOT_BASE64, NO_PNG, MISSING = "Not base64: ", "Not a PNG image", "Missing. Send the "
MANY_VALUES = "JSON with more than 1000 brackets, quotes, colons and commas."
TOO_LARGE, NO_JSON = f"Larger than {MAX_BYTES} bytes: {MAX_BYTES + 1}. Shrink it ", "Not JSON: "
OTHER_FIELD, NO_FORM = "Missing. Send the photo in the field 'data'", "A multipart form that cannot be read."
BAD_BODIES = {
    "empty": (None, b"", MISSING),
    "empty, as JSON": (AS_JSON, b"", MISSING),
    "empty, as a PNG": ("image/png", b"", MISSING),
    "blanks": ("text/plain", b" \r\n\t", MISSING),
    "a prefix alone": ("text/plain", b"data:image/png;base64,", MISSING),
    "another prefix": (
        "text/plain",
        b"data:image/jpeg;base64," + B64,
        "The data URL holds a PNG, but has another type.",
    ),
    "not base64": ("text/plain", b"h\xc3\xa4?", NO_PNG),
    "a wrong letter": ("text/plain", B64[:40] + b"*" + B64[40:], NOT_BASE64),
    "padding within": ("text/plain", B64[:40] + b"====" + B64[40:], NOT_BASE64),
    "one letter too few": ("text/plain", B64[: len(B64) // 4 * 4 - 7], "Not base64: characters are missing"),
    "a JPEG": ("text/plain", base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(60)), "This is JPEG, not PNG."),
    "a JPEG's bytes as a PNG": ("image/png", b"\xff\xd8\xff\xe0" + bytes(60), "This is JPEG, not PNG."),
    "truncated": ("image/png", PNG[:-5], "Truncated PNG image."),
    "larger than 5 MB": ("text/plain", base64.b64encode(PNG + bytes(MAX_BYTES + 1 - len(PNG))), TOO_LARGE),
    "larger than 5 MB as bytes": ("image/png", PNG + bytes(MAX_BYTES + 1 - len(PNG)), TOO_LARGE),
    "larger than any body": (
        "text/plain",
        b"A" * (MAX_BODY + 1),
        f"The body is too large: {MAX_BODY + 1} bytes, and {MAX_BODY} is the limit.",
    ),
    "broken JSON": (AS_JSON, b'{"data": "', NO_JSON),
    "JSON nested deeply": (AS_JSON, b'{"data":' + b"[" * 990, NO_JSON),
    "JSON of many values": (AS_JSON, b'{"data":[' + b"0," * 1000 + b"0]}", MANY_VALUES),
    "JSON with a wrong escape": (AS_JSON, b'{"data": "\\x"}', NO_JSON),
    "JSON in no Unicode": (AS_JSON, b'{"data": "\xff"}', NO_JSON),
    "a JSON array": (AS_JSON, b'["data"]', "Not in a JSON object."),
    "a JSON string": (AS_JSON, b'"' + B64 + b'"', "Not in a JSON object."),
    "JSON without data": (AS_JSON, b'{"photo": ""}', f"{OTHER_FIELD}; the fields that came: 'photo'."),
    "JSON, null": (AS_JSON, as_json(None), MISSING),
    "JSON, empty": (AS_JSON, as_json(""), MISSING),
    "JSON, a number": (AS_JSON, as_json(1), "Not a string."),
    "JSON, a truth": (AS_JSON, as_json(True), "Not a string."),
    "JSON, an array": (AS_JSON, as_json([B64.decode()]), "Not a string."),
    "JSON, an object": (AS_JSON, as_json({}), "Not a string."),
    "JSON, half a surrogate": (AS_JSON, b'{"data": "\\ud800"}', NOT_BASE64),
    "an empty field": (URLENCODED, b"data=", MISSING),
    "a form of too many fields": (URLENCODED, b"data=" + B64 + b"&a=1" * MAX_FIELDS, "Not a form: "),
    "a form of no ASCII": (URLENCODED, b"data=\xff", "Not a form: "),
    "another field": (URLENCODED, b"photo=" + ESCAPED, OTHER_FIELD),
    "multipart without data": (MULTIPART, multipart(B64, 'name="photo"'), OTHER_FIELD),
    "multipart, an empty field": (MULTIPART, multipart(b""), MISSING),
    "multipart, no file chosen": (MULTIPART, multipart(b"", 'name="data"; filename=""', "image/png"), MISSING),
    "multipart, an empty file": (MULTIPART, multipart(b"", 'name="data"; filename="a"', "image/png"), MISSING),
    "multipart of no parts": (MULTIPART, f"--{BOUNDARY}--".encode(), NO_FORM),
    "multipart with another boundary": (MULTIPART + "x", multipart(B64), NO_FORM),
    "multipart, cut off": (MULTIPART, multipart(B64)[:-200], NO_FORM),
}


@pytest.mark.parametrize(("content_type", "body", "reason"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_is_400_and_says_why(
    client: FlaskClient, auth: Headers, detector: FakeDetector, content_type: str | None, body: bytes, reason: str
) -> None:
    """Every bad body is 400 with the documented message, and its details name `data` and the reason."""
    response = client.post(OBJECTS, data=body, content_type=content_type, headers=auth)
    [said] = reasons(response)["data"]
    assert said.startswith(reason)
    assert not detector.seen


def test_a_photo_of_5_mb_fits(client: FlaskClient, auth: Headers, detector: FakeDetector) -> None:
    """A photo of 5 MB is accepted, also as base64 with line breaks."""
    largest = base64.encodebytes(PNG + bytes(MAX_BYTES - len(PNG))).replace(b"\n", b"\r\n")
    assert client.post(OBJECTS, data=largest, headers=auth).status_code == 200
    assert detector.seen


def test_too_many_pixels_are_400(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> None:
    """The limit on pixels is a setting, and the details name it."""
    app = make_app(replace(settings, max_pixels=255), detector)
    headers = bearer(add_user_to(app.extensions[KEY]))
    response = app.test_client().post(OBJECTS, data=B64, headers=headers)
    [said] = reasons(response)["data"]
    assert said.startswith("More than 255 pixels: 16 x 16. Shrink it until it is at most 15 pixels wide and high")


@given(st.binary(max_size=300), st.sampled_from([*ANY_TYPE, "image/png"]))
def test_arbitrary_bodies_are_400(bench: "Bench", body: bytes, content_type: str | None) -> None:
    """Bytes that are not a photo get 400, whatever their content type."""
    response = bench.client.post(OBJECTS, data=body, content_type=content_type, headers=bench.headers)
    assert list(reasons(response)) == ["data"]


# --- the reply

REPLY = (
    '{"statusCode":200,"error":null,"message":"Request fulfilled.","data":{"objects":['
    '{"name":"person","x":1.23,"y":2.35,"width":5.56,"height":5.54,"score":89.33},'
    '{"name":"cat","x":0.0,"y":0.0,"width":8.0,"height":8.0,"score":50.0}],"took":0}}'
)


def test_the_reply_is_as_documented(client: FlaskClient, auth: Headers, photo: str) -> None:
    """The reply is exact to the byte: order of properties, two decimals, no spaces; only the time differs."""
    response = client.post(OBJECTS, data=photo, headers=auth)
    assert re.sub(r'"took":\d+', '"took":0', response.text) == REPLY
    assert response.content_type == "application/json"


AS_JSON, AS_PNG = "application/json", "image/png"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, AS_JSON),
        ("", AS_JSON),
        ("*/*", AS_JSON),
        (AS_JSON, AS_JSON),
        (AS_PNG, AS_PNG),
        ("image/*", AS_PNG),
        ("image/png, */*;q=0.1", AS_PNG),
        ("image/png;q=0.5, application/json", AS_JSON),
        ("image/png;q=0.5, application/json;q=0.4", AS_PNG),
        ("image/png;q=0, */*", AS_JSON),
        ("application/json;q=0, */*", AS_PNG),
        ("text/html, image/avif, */*;q=0.8", AS_JSON),
        ("application/json; charset=utf-8", AS_JSON),
        ("application/json;version=1", AS_JSON),
        ('application/json; q="0.5"; charset=utf-8', AS_JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", AS_JSON),  # old Java
        ("application/json;q=.5, image/png;q=.6", AS_PNG),
        ("image/png;version=1, application/json;q=0.9", AS_PNG),
        ("image/avif,image/webp,image/apng,image/*,*/*;q=0.8", AS_PNG),
        ("APPLICATION/JSON", AS_JSON),
        ("application/json;q=high", AS_JSON),
        ("application/json;q=7", AS_JSON),
        ("json", AS_JSON),
        ('"application/json"', AS_JSON),
        ("application/json;q =.2, image/png;q=.5", AS_PNG),
        ("application/json;q= .2, image/png;q=.5", AS_PNG),
        ('application/json;q= ".2", image/png;q=.5', AS_PNG),
        ("application/json; q=.2, image/png;q=.5", AS_PNG),
        ('application/json;q=".2" ;a=b, image/png;q=.5', AS_PNG),
        ("application/json;Q=.2, image/png;Q=.5", AS_PNG),
        ("image/png, */*", AS_PNG),
        ("text/html ;q=.5, image/jpeg", None),
        ("text/html,", None),
        ("application/json;q=1, image/png;q=1.5", AS_JSON),
        ("image/png;q=.", AS_PNG),
        ("image/png,", AS_PNG),
        ("image/png;q=0.5, image/*;q=0.9, application/json;q=0.7", AS_JSON),
        ("image/*;q=0.9, image/png;q=0.5, application/json;q=0.7", AS_JSON),
        (";;,", AS_JSON),
        ("text/html", None),
        ("text/html;q=high", None),
        ("*/*;q=0", None),
        ("image/jpeg, text/*", None),
        ("image/png;q=0, application/json;q=0", None),
    ],
)
def test_the_caller_chooses_json_or_a_picture(
    client: FlaskClient, auth: Headers, photo: str, accept: str | None, expected: str | None
) -> None:
    """`Accept` selects JSON or a picture by quality; anything else gets 406 in the envelope. Replies have `Vary`."""
    response = client.post(OBJECTS, data=photo, headers=auth | ({} if accept is None else {"Accept": accept}))
    if expected is None:
        says(response, 406, "Not Acceptable", "This endpoint returns application/json or image/png only.")
    else:
        assert (response.status_code, response.mimetype) == (200, expected)
        assert response.headers["Vary"] == "Accept"


def test_the_picture_is_the_photo_with_its_boxes(client: FlaskClient, auth: Headers, detector: FakeDetector) -> None:
    """The picture has the photo's size; the requested boxes are drawn where the JSON says, and nothing else changes."""
    detector.found = [Detection("cat", (60, 50, 180, 140), 0.9), Detection("dog", (10, 10, 30, 30), 0.4)]
    body = png_of(Image.new("RGB", (200, 160), "white"))
    headers = auth | {"Accept": AS_PNG}
    response = client.post(f"{OBJECTS}?min_score=50", data=body, content_type=AS_PNG, headers=headers)
    picture = Image.open(BytesIO(response.data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (200, 160))
    white = (255, 255, 255)
    for x, y in ((60, 100), (180, 100), (120, 140)):
        assert picture.getpixel((x, y)) != white
    for x, y in ((120, 95), (10, 20), (195, 5)):
        assert picture.getpixel((x, y)) == white
    assert int(response.headers["X-Ratelimit-Remaining"]) >= 0


def test_an_error_is_never_a_picture(client: FlaskClient, auth: Headers) -> None:
    """A failure comes in the envelope, whatever `Accept` says."""
    response = client.post(OBJECTS, data="?", headers=auth | {"Accept": AS_PNG})
    assert reasons(response)


@dataclass
class Bench:
    """An application that many examples share."""

    client: FlaskClient
    detector: FakeDetector
    headers: Headers


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    detector = FakeDetector()
    app = create_app(Settings.from_env({"AUGU_DATA_DIR": str(tmp_path_factory.mktemp("bench"))}), detector)
    headers = bearer(add_user_to(app.extensions[KEY], coefficient=accounts.MAX_COEFFICIENT))
    yield Bench(app.test_client(), detector, headers)
    app.extensions[KEY].engine.dispose()


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, list[Detection]]:
    """The sides of an image and some detections, best first, whose boxes lie in it."""
    sides = width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))

    def span(side: int) -> tuple[float, float]:
        at = st.floats(0, side) | st.integers(0, side).map(float)
        low, high = sorted((draw(at), draw(at)))
        return low, high

    found = []
    for _ in range(draw(st.integers(0, 6))):
        (x1, x2), (y1, y2) = span(width), span(height)
        found.append(Detection(draw(st.sampled_from(["person", "cat"])), (x1, y1, x2, y2), draw(st.floats(0, 1))))
    return *sides, sorted(found, key=lambda detection: -detection.score)


@given(scenes(), st.integers(0, 100), st.integers(1, 6))
def test_boxes_stay_inside_the_image(
    bench: Bench, scene: tuple[int, int, list[Detection]], min_score: int, limit: int
) -> None:
    """Rounding to two decimals keeps a box in the image and its sides above 0, and moves edges by at most 0.005.

    What rounds to no area is left out; the rest comes best score first, down to `min_score` and up to `limit`.
    """
    width, height, bench.detector.found = scene
    body, query = png_of(Image.new("1", (width, height))), {"min_score": min_score, "limit": limit}
    options = {"query_string": query, "content_type": "image/png", "headers": bench.headers}
    response = bench.client.post(OBJECTS, data=body, **options)
    objects = json.loads(response.data, parse_float=Decimal)["data"]["objects"]
    for item in objects:
        assert item["x"] >= 0 < item["width"]
        assert item["y"] >= 0 < item["height"]
        assert item["x"] + item["width"] <= width
        assert item["y"] + item["height"] <= height
        assert min_score <= item["score"] <= 100
        assert all(int(value.as_tuple().exponent) >= -2 for value in item.values() if isinstance(value, Decimal))
    shown = [
        (d.name, d.box, round(d.score * 100, 2))
        for d in bench.detector.found
        if round(d.box[0], 2) < round(d.box[2], 2) and round(d.box[1], 2) < round(d.box[3], 2)
    ]
    expected = [detection for detection in shown if detection[2] >= min_score][:limit]
    assert len(objects) == len(expected)
    for item, (name, box, score) in zip(objects, expected, strict=True):
        assert (item["name"], float(item["score"])) == (name, score)
        edges = item["x"], item["y"], item["x"] + item["width"], item["y"] + item["height"]
        assert all(math.isclose(edge, side, abs_tol=0.0051) for edge, side in zip(edges, box, strict=True))


def test_took_leaves_out_the_waiting(client: FlaskClient, service: Service, auth: Headers, photo: str) -> None:
    """`took` is a whole number of milliseconds and does not include the time spent waiting."""
    with ThreadPoolExecutor() as pool:
        with service.admission.turn(0):
            reply = pool.submit(client.post, OBJECTS, data=photo, headers=auth)
            with pytest.raises(TimeoutError):
                reply.result(timeout=1)
        took = json.loads(reply.result().data)["data"]["took"]
    assert isinstance(took, int)
    assert 0 <= took < 1000


# --- query parameters


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["person", "cat"]),
        ("min_score=0", ["person", "cat", "dog"]),
        ("min_score=12.3", ["person", "cat", "dog"]),
        ("min_score=12.31", ["person", "cat"]),
        ("min_score=50", ["person", "cat"]),
        ("min_score=89.34", []),
        ("min_score=1e2", []),
        ("limit=1", ["person"]),
        ("limit=100", ["person", "cat"]),
        ("names=cat", ["cat"]),
        ("names=dog,%20cat", ["cat"]),
        ("names=dog&min_score=10&limit=1", ["dog"]),
    ],
)
def test_query_parameters_choose_objects(
    client: FlaskClient, auth: Headers, photo: str, query: str, expected: list[str]
) -> None:
    """`min_score` (50), `limit` (100) and `names` select the objects that are returned."""
    response = client.post(f"{OBJECTS}?{query}", data=photo, headers=auth)
    assert [item["name"] for item in json.loads(response.data)["data"]["objects"]] == expected


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("min_score=0.6", "min_score", "A fraction, where percent is meant: write 60 for 0.6."),
        *[(f"min_score={value}", "min_score", "") for value in ("-0.01", "100.01", "nan", "inf", "1e999", "x", "")],
        *[(f"limit={value}", "limit", "") for value in ("0", "101", "-1", "1.5", "x", "", "9" * 5000)],
        ("names=unicorn", "names", "Unknown: 'unicorn'. GET /images/classify/objects/names lists them."),
        ("names=cat,Cat", "names", "Unknown: 'Cat'. GET /images/classify/objects/names lists them."),
        ("names=", "names", "Unknown: ''. GET /images/classify/objects/names lists them."),
        ("names=%0a%ff", "names", ""),
        (f"names={'x' * 1000}", "names", f"Unknown: '{'x' * 40}'. GET /images/classify/objects/names lists them."),
        ("minscore=1", "minscore", "Unknown field."),
        ("=", "", "Unknown field."),
    ],
)
def test_bad_query_parameters_are_400_and_named(
    client: FlaskClient, auth: Headers, photo: str, query: str, field: str, reason: str
) -> None:
    """An unknown parameter or a value out of range is named, whatever the body is."""
    response = client.post(f"{OBJECTS}?{query}", data=photo, headers=auth)
    found = reasons(response)
    assert list(found) == [field]
    assert len(found[field]) == 1
    assert reason in found[field][0]


IN_BODIES = {
    "JSON": (AS_JSON, lambda fields: json.dumps({"data": B64.decode()} | fields)),
    "form": (URLENCODED, lambda fields: urlencode({"data": B64} | fields)),
    "multipart": (None, lambda fields: {"data": (BytesIO(PNG), "a.png")} | fields),
}


@pytest.mark.parametrize(("content_type", "body"), IN_BODIES.values(), ids=IN_BODIES)
def test_parameters_may_be_in_the_body(
    client: FlaskClient, auth: Headers, content_type: str | None, body: Callable[[dict[str, Any]], Any]
) -> None:
    """Parameters in the body are taken as if they were in the query; they are refused for the same reasons."""

    def reply(**fields: Any) -> TestResponse:
        return client.post(f"{OBJECTS}?min_score=0", data=body(fields), content_type=content_type, headers=auth)

    found = json.loads(reply(names="dog, cat", limit="1").data)
    assert [item["name"] for item in found["data"]["objects"]] == ["cat"]
    assert list(reasons(reply(limit="0"))) == ["limit"]
    assert list(reasons(reply(limit="1.5"))) == ["limit"]
    assert reasons(reply(min_score="50")) == {"min_score": ["Given twice: in the query and in the body."]}
    assert reasons(reply(names="cat" * 10_000)) == {"names": ["Longer than 8000 characters."]}


def test_parameters_in_json_have_their_types(client: FlaskClient, auth: Headers) -> None:
    """Numbers and lists are read, null is no value, and other types are refused."""

    def reply(**fields: Any) -> TestResponse:
        return client.post(OBJECTS, json={"data": B64.decode()} | fields, headers=auth)

    found = json.loads(reply(min_score=10, limit=1, names=["dog", "cat"], max_side=None).data)
    assert [item["name"] for item in found["data"]["objects"]] == ["cat"]
    for name, value in (("limit", 1.5), ("limit", True), ("min_score", {}), ("names", [1]), ("min_score", 0.5)):
        assert list(reasons(reply(**{name: value}))) == [name]


# --- failures

FLAGS_MESSAGE = (
    "You do not have the flag required to access this endpoint. "
    "Please refer to the documentation at https://docs.example/flags for more information."
)


class BrokenDetector(FakeDetector):
    """Fails with an unexpected error."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        raise RuntimeError("a secret of the machine room")


def test_401_is_as_documented(client: FlaskClient) -> None:
    """Without a token, the reply has the envelope and WWW-Authenticate, and no quota because there is no user."""
    response = client.post(OBJECTS)
    missing = {"authorization": ["Missing. Send the header Authorization: Bearer TOKEN, with your token as TOKEN."]}
    says(response, 401, "Unauthorized", "You are not authorized.", missing)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "X-Ratelimit-Limit" not in response.headers


@pytest.mark.parametrize("flags", [Flag(0), Flag.IMAGES_OBJECTS, Flag.EXPERIMENTAL, ~BOTH & ~Flag.BANNED])
def test_403_is_as_documented(
    make_app: MakeApp, settings: Settings, detector: FakeDetector, photo: str, flags: Flag
) -> None:
    """Both flags are needed; the message points to the documentation, and the details name those that are missing."""
    app = make_app(replace(settings, docs_url="https://docs.example/flags"), detector)
    headers = bearer(add_user_to(app.extensions[KEY], flags=flags))
    lacking = ", ".join((BOTH & ~flags).names)
    details = {"flags": [f"Missing: {lacking}. The operator of this service can grant what is missing."]}
    says(app.test_client().post(OBJECTS, data=photo, headers=headers), 403, "Forbidden", FLAGS_MESSAGE, details)
    assert not detector.seen


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/images", f"{OBJECTS}/", f"/{OBJECTS}", f"{OBJECTS}/names/", "//session", "/static/x", "/%00", "/ä"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_404_is_in_the_envelope(client: FlaskClient, path: str, method: str) -> None:
    """An unknown path gets 404, and no path is redirected."""
    says(client.open(path, method=method), 404, "Not Found", "There is nothing here.")


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"}
READ = (NAMES, SESSION, "/health/live", "/health/ready", "/metrics", "/openapi.json")
ALLOWED = {OBJECTS: {"POST"}} | {path: {"GET", "HEAD"} for path in READ}
REFUSED_METHODS = [(path, method) for path, allowed in ALLOWED.items() for method in sorted(METHODS - allowed)]


@pytest.mark.parametrize(("path", "method"), REFUSED_METHODS)
def test_405_is_in_the_envelope(client: FlaskClient, path: str, method: str) -> None:
    """Any other method, including OPTIONS, gets 405 with the allowed methods."""
    response = client.open(path, method=method)
    assert {allowed.strip() for allowed in response.headers["Allow"].split(",")} == ALLOWED[path]
    if method == "HEAD":
        assert (response.status_code, response.data) == (405, b"")
    else:
        says(response, 405, "Method Not Allowed", "This method is not allowed here.")


@pytest.mark.parametrize("path", [NAMES, SESSION, "/health/live", "/health/ready", "/openapi.json"])
def test_head_is_get_without_a_body(client: FlaskClient, auth: Headers, path: str) -> None:
    """HEAD has the status and the length of GET."""
    head, get = client.head(path, headers=auth), client.get(path, headers=auth)
    assert (head.status_code, head.data) == (200, b"")
    assert head.content_length == get.content_length == len(get.data)


def test_500_is_in_the_envelope(
    make_app: MakeApp, settings: Settings, photo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is logged and not shown to the client, and its slot is free again."""
    app = make_app(settings, BrokenDetector())
    service, client = app.extensions[KEY], app.test_client()
    headers = bearer(add_user_to(service))
    for _ in range(settings.queue + 2):
        response = client.post(OBJECTS, data=photo, headers=headers)
        says(response, 500, "Internal Server Error", "Something went wrong on our side.")
        assert "X-Ratelimit-Remaining" in response.headers
    assert "a secret of the machine room" in caplog.text


UNAVAILABLE = "The service cannot answer right now. Please try again later."


@pytest.mark.parametrize("path", [OBJECTS, NAMES, "/health/ready"])
def test_without_a_detector_it_is_503(make_app: MakeApp, settings: Settings, photo: str, path: str) -> None:
    """An application without a detector says so where it needs one."""
    app = make_app(settings)
    headers = bearer(add_user_to(app.extensions[KEY]))
    response = app.test_client().open(path, method="POST" if path == OBJECTS else "GET", data=photo, headers=headers)
    says(response, 503, "Service Unavailable", UNAVAILABLE)
    assert int(response.headers["Retry-After"]) > 0
    assert app.test_client().get("/health/live").status_code == 200


@pytest.mark.parametrize("table", ["users", "counts"])
def test_without_its_tables_it_is_503(
    service: Service, client: FlaskClient, auth: Headers, photo: str, table: str
) -> None:
    """If the users or the counts cannot be read, the reply is 503."""
    with service.engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {table}"))
    response = client.post(OBJECTS, data=photo, headers=auth)
    says(response, 503, "Service Unavailable", UNAVAILABLE)
    assert int(response.headers["Retry-After"]) > 0


# --- the gates


class Untouched(BytesIO):
    """A body that notes whether it was read."""

    touched = False

    def read(self, size: int | None = -1, /) -> bytes:
        self.touched = True
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self.touched = True
        return super().readinto(buffer)


BANNED_FLAG = "You are banned."
GATES = {
    "token": (None, {}, 401, "You are not authorized."),
    "ban": (Flag.BANNED, {"coefficient": 0}, 403, BANNED_FLAG),
    "rate limit": (Flag(0), {"coefficient": 0}, 429, "You have made too many requests."),
    "flags": (Flag.EXPERIMENTAL, {}, 403, "You do not have the flag"),
}


@pytest.mark.parametrize(("flags", "options", "status", "message"), GATES.values(), ids=GATES)
def test_the_first_gate_that_fails_answers(
    client: FlaskClient, add_user: AddUser, flags: Flag | None, options: dict[str, Any], status: int, message: str
) -> None:
    """Gates run in the order token, ban, rate limit, flags, body; the first that fails answers."""
    headers = BAD_TOKEN if flags is None else bearer(add_user("alice", flags, **options))
    body = Untouched(b"not a photo")
    response = client.post(f"{OBJECTS}?limit=0", input_stream=body, content_length=11, headers=headers)
    assert response.status_code == status
    assert json.loads(response.data)["message"].startswith(message)
    assert not body.touched


def test_the_body_is_looked_at_last(client: FlaskClient, auth: Headers) -> None:
    """`Accept` and query parameters are checked before the body, even if that is too large."""
    for options in ({"data": b"not a photo"}, {"data": b"A", "content_length": MAX_BODY + 1}):
        assert client.post(OBJECTS, headers=auth | {"Accept": "text/html"}, **options).status_code == 406
        assert list(reasons(client.post(f"{OBJECTS}?limit=0", headers=auth, **options))) == ["limit"]
        assert list(reasons(client.post(OBJECTS, headers=auth, **options))) == ["data"]


NO_HEADER, NO_BEARER, NO_REASON = "Missing. Send the header", "Not of the form Bearer TOKEN.", ""


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", NO_HEADER),
        (" ", NO_HEADER),
        ("Bearer", NO_BEARER),
        ("Bearer ", NO_BEARER),
        ("Bearer a.b.c", NO_REASON),
        ("Bearer a=b", NO_BEARER),
        ("Bearer ä", NO_REASON),
        ("Basic YTpi", NO_BEARER),
        ("Token {token}", NO_BEARER),
        ("{token}", NO_BEARER),
        ("Bearer {token}x", NO_REASON),
        ("Bearer {token}=", NO_REASON),
        ("Bearer {token} {token}", NO_REASON),
    ],
)
@pytest.mark.parametrize("path", [OBJECTS, SESSION])
def test_anything_but_the_token_is_401(
    client: FlaskClient, auth: Headers, authorization: str, reason: str, path: str
) -> None:
    """Another scheme, no token, and a token with anything added are refused; why a token is not valid is not told."""
    token = auth["Authorization"].removeprefix("Bearer ")
    headers = bearer(authorization.format(token=token))
    response = client.open(path, method="POST" if path == OBJECTS else "GET", headers=headers)
    body = json.loads(response.data)
    assert (response.status_code, body["message"]) == (401, "You are not authorized.")
    if not reason:
        assert list(body) == ["statusCode", "error", "message"]
    else:
        [said] = body["details"]["authorization"]
        assert said.startswith(reason)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("augu.example", "http://augu.example/docs"),
        ("augu.example:8000", "http://augu.example:8000/docs"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/docs"),
        ("[::1]:8000", "http://[::1]:8000/docs"),
        ("a.example/b?", "/docs"),
        ("a.example@b", "/docs"),
        ("<b>", "/docs"),
    ],
)
def test_the_address_of_the_documentation_is_absolute(
    client: FlaskClient, add_user: AddUser, host: str, url: str
) -> None:
    """It is on the host that was asked, unless the Host header is not the name or address of one."""
    headers = bearer(add_user("alice", Flag(0))) | {"Host": host}
    message = json.loads(client.post(OBJECTS, headers=headers).data)["message"]
    assert f" the documentation at {url} for " in message


def test_the_scheme_is_in_any_case(client: FlaskClient, auth: Headers) -> None:
    """HTTP's schemes have no case."""
    assert client.get(SESSION, headers=bearer(auth["Authorization"].replace("Bearer", "bEARER"))).status_code == 200


# --- rate limits and bans


def test_the_quota_is_in_the_headers(client: FlaskClient, add_user: AddUser, photo: str) -> None:
    """A new user has 48 requests of any kind in 60 seconds, good or bad; each reply says how many are left."""
    headers = bearer(add_user())
    for left in range(47, -1, -1):
        response = client.get(SESSION, headers=headers) if left % 2 else client.post(OBJECTS, headers=headers)
        assert response.status_code == (200 if left % 2 else 400)
        assert (response.headers["X-Ratelimit-Limit"], response.headers["X-Ratelimit-Remaining"]) == ("48", str(left))
        assert 0 <= int(response.headers["X-Ratelimit-Reset"]) <= 60
        assert not set(WAIT) & set(response.headers.keys())
    response = client.post(OBJECTS, data=photo, headers=headers)
    seconds = response.headers["Retry-After"]
    assert 1 <= int(seconds) <= 60
    says(response, 429, "Too Many Requests", f"You have made too many requests. Please wait {seconds} seconds.")
    assert (response.headers["X-Retry-After"], response.headers["X-Ratelimit-Reset"]) == (seconds, seconds)
    assert response.headers["X-Ratelimit-Remaining"] == "0"


def test_a_user_does_not_spend_anothers_quota(client: FlaskClient, add_user: AddUser) -> None:
    """Each user has a quota of their own."""
    alice, bob = bearer(add_user("alice", coefficient=1 / 60)), bearer(add_user("bob", coefficient=1 / 60))
    assert [client.get(SESSION, headers=who).status_code for who in (alice, alice, bob, bob)] == [200, 429, 200, 429]


@pytest.mark.parametrize("minutes", [1, 10])
def test_50_refusals_ban(make_app: MakeApp, settings: Settings, detector: FakeDetector, minutes: int) -> None:
    """After the 50th 429 this user, and no other, gets 403 on every endpoint for the configured minutes."""
    app = make_app(replace(settings, ban_minutes=minutes), detector)
    service, client = app.extensions[KEY], app.test_client()
    alice, bob = bearer(add_user_to(service, coefficient=0)), bearer(add_user_to(service, "bob"))
    assert [client.get(SESSION, headers=alice).status_code for _ in range(50)] == [429] * 50
    for response in (client.get(SESSION, headers=alice), client.post(OBJECTS, headers=alice)):
        seconds = response.headers["Retry-After"]
        assert 60 * minutes - 30 < int(seconds) <= 60 * minutes
        says(response, 403, "Forbidden", f"You are banned for another {seconds} seconds.")
        assert response.headers["X-Retry-After"] == seconds
        assert response.headers["X-Ratelimit-Limit"] == "0"
    assert client.get(SESSION, headers=bob).status_code == 200


def test_a_ban_ends_by_retry_after(client: FlaskClient, service: Service, add_user: AddUser) -> None:
    """Retry-After is rounded up, so that the ban has ended when the caller tries again."""
    headers, ends = bearer(add_user("alice")), time.time() + 600.5
    with Session(service.engine) as session, session.begin():
        accounts.find(session, "alice").banned_until = ends
    response = client.get(SESSION, headers=headers)
    assert response.status_code == 403
    assert time.time() + int(response.headers["Retry-After"]) >= ends


@pytest.mark.parametrize(("method", "path"), [("POST", OBJECTS), ("GET", SESSION)])
def test_the_banned_flag_bans_permanently(client: FlaskClient, add_user: AddUser, method: str, path: str) -> None:
    """A user with the BANNED flag gets 403 everywhere, without a Retry-After, and no request is counted."""
    headers = bearer(add_user("alice", BOTH | Flag.BANNED))
    for _ in range(2):
        response = client.open(path, method=method, headers=headers)
        says(response, 403, "Forbidden", BANNED_FLAG)
        assert response.headers["X-Ratelimit-Remaining"] == "48"
        assert not set(WAIT) & set(response.headers.keys())


# --- the queue


def test_a_full_queue_is_503_at_once_and_not_counted(
    client: FlaskClient, service: Service, detector: FakeDetector, add_user: AddUser, photo: str
) -> None:
    """Without a free slot the reply is 503 with Retry-After; the request is not counted and its body not read."""
    headers, body = bearer(add_user()), Untouched(photo.encode())
    with full(service):
        for _ in range(2):
            response = client.post(OBJECTS, input_stream=body, content_length=len(photo), headers=headers)
            says(response, 503, "Service Unavailable", "Too many requests are waiting. Please try again later.")
            assert int(response.headers["Retry-After"]) > 0
            assert response.headers["X-Ratelimit-Remaining"] == "48"
        assert client.post(OBJECTS, headers=BAD_TOKEN).status_code == 401
        assert client.get(SESSION, headers=headers).headers["X-Ratelimit-Remaining"] == "47"
        assert client.get("/health/ready").status_code == 200
    assert not body.touched
    assert not detector.seen
    assert client.post(OBJECTS, data=photo, headers=headers).headers["X-Ratelimit-Remaining"] == "46"


@pytest.mark.parametrize(
    ("flags", "options", "body", "status"),
    [(BOTH, {}, "x", 400), (Flag(0), {}, "x", 403), (BOTH, {"coefficient": 0}, "x", 429)],
)
def test_a_refused_request_gives_back_its_slot(
    client: FlaskClient,
    service: Service,
    add_user: AddUser,
    flags: Flag,
    options: dict[str, Any],
    body: str,
    status: int,
) -> None:
    """However many requests are refused, no slot stays occupied."""
    headers = bearer(add_user("alice", flags, **options))
    statuses = [client.post(OBJECTS, data=body, headers=headers).status_code for _ in range(service.settings.queue + 2)]
    assert statuses == [status] * (service.settings.queue + 2)


# --- the other routes


def test_the_session_is_the_callers_account(client: FlaskClient, add_user: AddUser) -> None:
    """The id is text, since it does not fit a JavaScript number; the flags are a bitfield and names."""
    headers = bearer(add_user("alice", Flag.EXPERIMENTAL, id=2**63 - 1, coefficient=1.5))
    assert client.get(SESSION, headers=headers).text == (
        '{"statusCode":200,"error":null,"message":"Request fulfilled.","data":{"id":"9223372036854775807","flags":389,'
        '"flagNames":["TEXT","IMAGES","INFORMATION","EXPERIMENTAL"],"ratelimit":1.5}}'
    )


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (NAMES, '{"names":["person","cat","dog"]}'),
        ("/health/live", '{"live":true}'),
        ("/health/ready", '{"model":"fake","engine":"none","sha256":"0"}'),
    ],
)
def test_open_routes_need_no_token(client: FlaskClient, path: str, data: str) -> None:
    """The categories and the health checks need no token, use the envelope and show no quota."""
    for headers in ({}, BAD_TOKEN):
        response = client.get(path, headers=headers)
        assert response.text == f'{{"statusCode":200,"error":null,"message":"Request fulfilled.","data":{data}}}'
        assert "X-Ratelimit-Limit" not in response.headers


EVERY_STATUS = [("GET", "/health/live"), ("POST", OBJECTS), ("GET", "/nothing"), ("PUT", SESSION), ("GET", "/metrics")]


@pytest.mark.parametrize("id", ["a", "A-1.b_2", "a.B-3_" * 10, "f" * 64])
@pytest.mark.parametrize(("method", "path"), EVERY_STATUS)
def test_a_valid_request_id_is_kept(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, method: str, path: str, id: str
) -> None:
    """The reply and its log line have the caller's own request id."""
    caplog.set_level(logging.INFO, "augu_api.requests")
    response = client.open(path, method=method, headers={"X-Request-Id": id})
    assert response.headers.getlist("X-Request-Id") == [id]
    assert [getattr(record, "id", None) for record in caplog.records if record.message == "request"] == [id]


@pytest.mark.parametrize(
    "given", [None, "", " ", "x" * 65, "a b", "a\tb", "ä", '{"a":1}', "a/b", "../x", "a,b", "<script>"]
)
def test_any_other_request_id_is_replaced(client: FlaskClient, given: str | None) -> None:
    """An id that could break a log is replaced by a new one, different each time."""
    headers = {} if given is None else {"X-Request-Id": given}
    ids = [client.get("/health/live", headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


# --- privacy of photos


@pytest.mark.parametrize("form", ["bytes", "multipart", "text"])
def test_a_photo_is_neither_stored_nor_logged(
    client: FlaskClient, auth: Headers, detector: FakeDetector, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    """A photo that many servers would write to a temporary file is written to no file and no log."""
    caplog.set_level(logging.DEBUG)
    large = png_of(Image.frombytes("RGB", (700, 700), os.urandom(700 * 700 * 3)))
    forms = {
        "bytes": ("image/png", large),
        "multipart": (MULTIPART, multipart(large, 'name="data"; filename="a.png"', "image/png")),
        "text": ("text/plain", base64.b64encode(large)),
    }
    content_type, body = forms[form]
    client.get(SESSION, headers=auth)  # opens the database
    with no_file_beyond(len(body) // 2):
        assert client.post(OBJECTS, data=body, content_type=content_type, headers=auth).status_code == 200
    assert detector.seen
    assert base64.b64encode(large[:60]).decode() not in caplog.text


@pytest.mark.parametrize(("method", "path"), [("POST", OBJECTS), ("GET", "/health/ready")])
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("database", "The database cannot be used: "),
        ("redis", "The rate limit storage (AUGU_RATELIMIT_STORAGE) cannot be used: "),
        ("detector", "There is no detector"),
    ],
)
def test_the_log_says_what_is_unavailable(
    make_app: MakeApp,
    settings: Settings,
    detector: FakeDetector,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    named: str,
    method: str,
    path: str,
) -> None:
    """The log says what caused a 503 and why; the reply does not."""
    if broken == "redis":
        pytest.importorskip("redis")
        settings = replace(settings, ratelimit_storage=f"redis://127.0.0.1:{free_port()}")
    app = make_app(settings, None if broken == "detector" else detector)
    service = app.extensions[KEY]
    headers = bearer(add_user_to(service))
    if broken == "database":
        service.engine.dispose()
        Path(service.engine.url.database).unlink()
        Path(service.engine.url.database).mkdir()
    response = app.test_client().open(path, method=method, headers=headers)
    says(response, 503, "Service Unavailable", "The service cannot answer right now. Please try again later.")
    assert response.headers["Retry-After"] == "1"
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message.startswith(named)


@pytest.mark.parametrize("table", ["users", "counts"])
def test_the_log_says_what_the_database_refused(
    make_app: MakeApp, settings: Settings, detector: FakeDetector, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """It names the database, also while a request is counted."""
    app = make_app(settings, detector)
    headers = bearer(add_user_to(app.extensions[KEY]))
    with app.extensions[KEY].engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {table}"))
    assert app.test_client().post(OBJECTS, headers=headers).status_code == 503
    assert f"The database cannot be used: no such table: {table}" in caplog.text
