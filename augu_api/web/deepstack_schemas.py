"""The schemas of DeepStack's protocol. They are pure: no database, no request, no clock."""

import math
from typing import Any, cast

import numpy as np
from marshmallow import Schema, fields, pre_dump, pre_load, validate
from numpy.typing import NDArray

from augu_api.detection import Detection
from augu_api.photos import ImageRejected, decode_upright
from augu_api.web.photo import Photo
from augu_api.web.schemas import MISSING, PhotoRequest


class Upload(Photo):
    """The bytes of a photo of any accepted format, loaded as the RGB pixels (H, W, 3) that they show."""

    def _decoded(self, value: Any, max_pixels: int) -> NDArray[np.uint8]:
        if not isinstance(value, bytes):
            raise ImageRejected("Not a file.")
        if not value:
            raise ImageRejected("Missing.")
        return decode_upright(value, max_pixels, cast("DeepStackRequest", self.parent).max_bytes)


class DeepStackRequest(PhotoRequest):
    """The form of DeepStack's protocol, with a file of at most `max_bytes` bytes; unnamed parts are ignored."""

    def __init__(self, max_pixels: int = 0, max_bytes: int = 0) -> None:
        super().__init__(max_pixels)
        self.max_bytes = max_bytes

    image = Upload(
        required=True,
        error_messages=MISSING,
        metadata={"description": "The file: a JPEG, PNG, WebP, BMP, GIF or TIFF, shown as its EXIF says."},
    )
    min_confidence = fields.Float(
        load_default=0.4,
        validate=validate.Range(0, 1),
        metadata={"description": "Leave out objects with a lower confidence. An empty text is the default."},
    )
    api_key = fields.String(
        load_default="", metadata={"description": "The token, for a client that sends no Authorization header."}
    )

    @pre_load
    def _drop_empty(self, form: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {name: text for name, text in form.items() if name != "min_confidence" or text.strip()}


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


class Module(Schema):
    """What CodeProject.AI says of the module that replies."""

    round_trip = fields.Integer(
        required=True,
        data_key="analysisRoundTripMs",
        metadata={"description": "Milliseconds since the request began, the wait for the detector included."},
    )
    code = fields.Integer(required=True, dump_default=200, metadata={"description": "The status."})
    command = fields.String(required=True, dump_default="list-custom")
    module_id = fields.String(required=True, dump_default="AuguAPI", data_key="moduleId")
    module_name = fields.String(required=True, dump_default="Augu API", data_key="moduleName")
    provider = fields.String(
        required=True, data_key="executionProvider", metadata={"description": "What the model runs on."}
    )


class DeepStackReply(Module):
    """A reply of DeepStack's protocol, with what CodeProject.AI adds to it."""

    success = fields.Boolean(required=True, dump_default=True)
    predictions = fields.List(
        fields.Nested(Prediction), required=True, metadata={"description": "Best confidence first."}
    )
    duration = fields.Integer(required=True, dump_default=0, metadata={"description": "Always 0."})
    message = fields.String(required=True, metadata={"description": "What was found, for a person."})
    count = fields.Integer(required=True, metadata={"description": "How many predictions there are."})
    inference = fields.Integer(
        required=True, data_key="inferenceMs", metadata={"description": "Milliseconds that detection took."}
    )
    process = fields.Integer(
        required=True,
        data_key="processMs",
        metadata={"description": "Milliseconds that decoding and detection took."},
    )

    class Meta:
        """DeepStack's fields come first."""

        fields = (
            *("success", "predictions", "duration", "message", "count", "inference", "process", "round_trip"),
            *("code", "command", "module_id", "module_name", "provider"),
        )


class DeepStackModels(Module):
    """The names of the models."""

    success = fields.Boolean(required=True, dump_default=True)
    models = fields.List(fields.String(), required=True)

    class Meta:
        """The names come first."""

        fields = ("success", "models", "round_trip", "code", "command", "module_id", "module_name", "provider")


class VersionNumber(Schema):
    """A version in its parts."""

    major = fields.Integer(required=True)
    minor = fields.Integer(required=True)
    patch = fields.Integer(required=True)


class DeepStackVersion(Schema):
    """That the service responds."""

    success = fields.Boolean(required=True, dump_default=True)
    message = fields.String(required=True, metadata={"description": "The version, or a sentence for a person."})
    version = fields.Nested(VersionNumber, required=True)
    code = fields.Integer(required=True, dump_default=200, metadata={"description": "The status."})


class DeepStackUpdate(DeepStackVersion):
    """Whether there is an update: none is looked for."""

    update_available = fields.Boolean(required=True, dump_default=False, data_key="updateAvailable")
    current = fields.Nested(VersionNumber, required=True)
    latest = fields.Nested(VersionNumber, required=True)


class DeepStackFailure(Schema):
    """A failure in DeepStack's protocol."""

    success = fields.Boolean(required=True, dump_default=False)
    error = fields.String(required=True, metadata={"description": "The reason, for a person."})
    duration = fields.Integer(required=True, dump_default=0, metadata={"description": "Always 0."})
    message = fields.String(required=True, metadata={"description": "The same as error, for CodeProject.AI's clients."})
    code = fields.Integer(required=True, metadata={"description": "The status."})
