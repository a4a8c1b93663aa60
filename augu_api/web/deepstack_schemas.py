"""The schemas of DeepStack's protocol. They are pure: no database, no request, no clock."""

import math
from typing import Any

import numpy as np
from marshmallow import Schema, fields, pre_dump, validate
from numpy.typing import NDArray

from augu_api.detection import Detection
from augu_api.photos import ImageRejected, decode_upright
from augu_api.web.schemas import MISSING, Photo, PhotoRequest


class Upload(Photo):
    """The bytes of a PNG, a JPEG or a WebP, loaded as the RGB pixels (H, W, 3) that they show."""

    def _decoded(self, value: Any, max_pixels: int) -> NDArray[np.uint8]:
        if not isinstance(value, bytes):
            raise ImageRejected("Not a file.")
        if not value:
            raise ImageRejected("Missing.")
        return decode_upright(value, max_pixels)


class DeepStackRequest(PhotoRequest):
    """The form of DeepStack's protocol."""

    image = Upload(
        required=True,
        error_messages=MISSING,
        metadata={"description": "The file: a JPEG, PNG or WebP of at most 5 MB, shown as its EXIF says."},
    )
    min_confidence = fields.Float(
        load_default=0.4,
        validate=validate.Range(0, 1),
        metadata={"description": "Leave out objects with a lower confidence."},
    )
    api_key = fields.String(
        load_default="", metadata={"description": "The token, for a client that sends no Authorization header."}
    )


class Prediction(Schema):
    """One object in DeepStack's protocol: its box is in whole pixels of the upright image."""

    confidence = fields.Float(
        required=True,
        validate=validate.Range(0, 1),
        metadata={"description": "Under 0.6 the object is unlikely to be there."},
    )
    label = fields.String(required=True, metadata={"description": "The category, lower case."})
    y_min = fields.Integer(required=True, metadata={"description": "Pixels from the top edge to the box."})
    x_min = fields.Integer(required=True, metadata={"description": "Pixels from the left edge to the box."})
    y_max = fields.Integer(required=True, metadata={"description": "Pixels from the top edge to the box's end."})
    x_max = fields.Integer(required=True, metadata={"description": "Pixels from the left edge to the box's end."})

    @pre_dump
    def _widen(self, detection: Detection, **_: Any) -> dict[str, Any]:
        x1, y1, x2, y2 = detection.box
        low, high = {"y_min": math.floor(y1), "x_min": math.floor(x1)}, {"y_max": math.ceil(y2), "x_max": math.ceil(x2)}
        return {"confidence": round(detection.score, 4), "label": detection.name} | low | high


class DeepStackReply(Schema):
    """A reply of DeepStack's protocol."""

    success = fields.Boolean(required=True, dump_default=True)
    predictions = fields.List(
        fields.Nested(Prediction), required=True, metadata={"description": "Best confidence first."}
    )
    duration = fields.Integer(required=True, dump_default=0, metadata={"description": "Always 0."})


class DeepStackFailure(Schema):
    """A failure in DeepStack's protocol."""

    success = fields.Boolean(required=True, dump_default=False)
    error = fields.String(required=True, metadata={"description": "The reason, for a person."})
    duration = fields.Integer(required=True, dump_default=0, metadata={"description": "Always 0."})
