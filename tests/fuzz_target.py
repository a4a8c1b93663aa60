"""The fuzzing target: reading a request body. tests/test_fuzz.py runs it on the seeds, tests/fuzz.py on mutations.

A seed is a request: its first byte chooses the form, the rest is the body.
"""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from flask import Flask
from marshmallow import ValidationError
from numpy.typing import NDArray
from PIL import Image
from werkzeug.exceptions import RequestEntityTooLarge

from augu_api.photos import ImageRejected, decode_upright
from augu_api.web.body import MAX_BODY, Request, submitted
from augu_api.web.schemas import ObjectsRequest

SEEDS = Path(__file__).with_name("seeds")
MAX_PIXELS = 40_000
FORMS = [
    "image/png",
    "text/plain",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "a JPEG or a WebP",
]
UPLOAD = FORMS.index("a JPEG or a WebP")


def application() -> Flask:
    """An application that reads requests as the service does and has no routes."""
    app = Flask(__name__)
    app.request_class = Request
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, MAX_FORM_MEMORY_SIZE=MAX_BODY)
    return app


def look_at(app: Flask, data: bytes) -> None:
    """Read a body as the service does: it is a photo within the limits, or is refused with a reason."""
    form, body = data[0] % len(FORMS) if data else 0, data[1:]
    photo = None
    if form == UPLOAD:
        with suppress(ImageRejected):
            photo = decode_upright(body, MAX_PIXELS)
    else:
        with (
            app.test_request_context("/", method="POST", data=body, content_type=FORMS[form]),
            suppress(ValidationError, RequestEntityTooLarge),
        ):
            photo = ObjectsRequest(MAX_PIXELS).load(submitted())["data"]
    if photo is None:
        return
    height, width, channels = photo.shape
    assert channels == 3
    assert 0 < width * height <= MAX_PIXELS
    photo.tobytes()
    if form == 0:
        _as_pillow_sees_it(photo, body)


def _as_pillow_sees_it(photo: NDArray[np.uint8], png: bytes) -> None:
    """Photos of 8 bits without transparency that Pillow accepts too have the same pixels."""
    try:
        with Image.open(BytesIO(png), formats=["PNG"]) as other:
            other.load()
            if other.mode in ("RGB", "L", "P") and not other.has_transparency_data and other.size == photo.shape[1::-1]:
                assert photo.tobytes() == other.convert("RGB").tobytes()
    except (OSError, ValueError, SyntaxError):
        pass
