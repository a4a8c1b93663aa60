"""The schemas of requests and replies. They are pure: no database, no request, no clock."""

from collections.abc import Collection, Mapping
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, pre_dump, validate, validates

from augu_api.detection import Detection
from augu_api.web import photo
from augu_api.web.photo import Photo

FRACTION = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}  # what JSON Schema calls the scores that are refused
MISSING: dict[str, str | list[Any] | dict[Any, Any]] = {"required": "Missing.", "null": "Missing."}


class PhotoRequest(Schema):
    """A body with a photo of at most `max_pixels` pixels; unknown fields are ignored."""

    def __init__(self, max_pixels: int = 0) -> None:
        super().__init__(unknown=EXCLUDE)
        self.max_pixels = max_pixels


class ObjectsRequest(PhotoRequest):
    """The body of a request for objects."""

    data = Photo(
        required=True,
        error_messages=photo.MISSING,
        metadata={"description": "The PNG file, base64 encoded, at most 5 MB once decoded."},
    )


class CommaSeparated(fields.List[str]):
    """Comma-separated texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        return super()._deserialize([text.strip() for text in value.split(",")], attr, data, **kwargs)


def _percent(score: float) -> None:
    if 0 < score < 1:
        raise ValidationError(f"A fraction, where percent is meant: write {score * 100:g} for {score:g}.")


class ObjectsQuery(Schema):
    """The query parameters of a request for objects."""

    min_score = fields.Float(
        load_default=50.0,
        validate=[validate.Range(0, 100), _percent],
        metadata={"description": "Leave out objects with a lower score, in percent.", "not": FRACTION},
    )
    limit = fields.Integer(
        load_default=100, validate=validate.Range(1, 100), metadata={"description": "Return no more objects than this."}
    )
    max_side = fields.Integer(
        load_default=2048,
        validate=validate.Range(64, 3072),
        metadata={"description": "Make an annotated photo no wider and no higher than this, in pixels."},
    )
    names = CommaSeparated(
        fields.String(),
        load_default=lambda: None,  # a function, so that null is not documented: a query cannot send it
        metadata={"description": "Return only these categories, comma-separated.", "minItems": 1},
    )

    def __init__(self, known: Collection[str] = ()) -> None:
        super().__init__(unknown=RAISE)
        self.known = known

    @validates("names")
    def _know(self, names: list[str] | None, **_: Any) -> None:
        if unknown := [name for name in names or () if name not in self.known]:
            raise ValidationError(f"Unknown: {unknown[0][:40]!r}. GET /images/classify/objects/names lists them.")


class Item(Schema):
    """One object."""

    name = fields.String(required=True, metadata={"description": "The category, lower case."})
    x = fields.Float(required=True, metadata={"description": "Pixels from the left edge to the box."})
    y = fields.Float(required=True, metadata={"description": "Pixels from the top edge to the box."})
    width = fields.Float(required=True, metadata={"description": "The box's width in pixels."})
    height = fields.Float(required=True, metadata={"description": "The box's height in pixels."})
    score = fields.Float(
        required=True,
        validate=validate.Range(0, 100),
        metadata={"description": "Percent; under 60 the object is unlikely to be there."},
    )

    @pre_dump
    def _round(self, detection: Detection, **_: Any) -> dict[str, Any]:
        x1, y1, x2, y2 = (round(side, 2) for side in detection.box)
        size = {"width": round(x2 - x1, 2), "height": round(y2 - y1, 2)}
        return {"name": detection.name, "x": x1, "y": y1, "score": detection.percent} | size


class ImageObjects(Schema):
    """The objects in a photo."""

    objects = fields.List(fields.Nested(Item), required=True, metadata={"description": "Best score first."})
    took = fields.Integer(required=True, metadata={"description": "Milliseconds that decoding and detection took."})


class Failure(Schema):
    """A failure; a success has `data` in place of `details`, and null as its `error`."""

    status_code = fields.Integer(required=True, data_key="statusCode")
    error = fields.String(required=True)
    message = fields.String(required=True)
    details = fields.Dict(metadata={"description": "The reasons, by field."})

    class Meta:
        """More properties may come."""

        unknown = EXCLUDE


class CategoryNames(Schema):
    """The categories that the loaded model knows."""

    names = fields.List(fields.String(), required=True, metadata={"description": "The categories, by label."})


class SessionDetails(Schema):
    """The caller's account."""

    id = fields.String(
        required=True, metadata={"description": "A 64-bit integer; text, because JavaScript would round it."}
    )
    flags = fields.Integer(required=True, metadata={"description": "The bitfield."})
    flag_names = fields.List(
        fields.String(),
        required=True,
        attribute="flags.names",
        data_key="flagNames",
        metadata={"description": "The same flags by name."},
    )
    ratelimit = fields.Float(
        required=True,
        attribute="coefficient",
        metadata={"description": "60 times this is the cap per window."},
    )


class Live(Schema):
    """The process answers."""

    live = fields.Boolean(required=True)


class Ready(Schema):
    """The loaded model."""

    model = fields.String(required=True)
    engine = fields.String(required=True)
    sha256 = fields.String(required=True, metadata={"description": "The hash of the weights."})
