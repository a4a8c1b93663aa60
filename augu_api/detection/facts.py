"""The schema of `model.json`, which may come from anybody: every field has a type and bounds."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

MAX_SIDE = 10_000  # pixels
MAX_LABELS = 10_000
MAX_TEXT = 100
SHA256 = validate.Regexp(r"[0-9a-f]{64}\Z", error="Must be 64 hexadecimal digits in lower case.")
FILE = validate.Regexp(r"\w[\w.+-]{0,199}\Z", error="Must be the name of a file in the same folder.")
NAME = validate.Regexp(r"\w{1,100}\Z", error="Must be the name of an architecture.")


def _printable(text: str) -> None:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ValidationError(f"Must be at most {MAX_TEXT} printable characters.")


class Number(fields.Float):
    """A finite number; a text is none, and neither is true or false."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if type(value) not in (int, float):
            raise self.make_error("invalid", input=value)
        return float(super()._deserialize(value, *args, **kwargs))


class Whole(Number):
    """A whole number."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid", input=value)
        return int(super()._deserialize(value, *args, **kwargs))


class ExportFacts(Schema):
    """What is noted of a published model's export."""

    class Meta:
        """Other fields are notes for readers."""

        unknown = EXCLUDE

    export_sha256 = fields.String(required=True, validate=SHA256)


class Facts(ExportFacts):
    """What a model's folder says of it; catalogue.Model describes the fields."""

    architecture = fields.String(required=True, validate=NAME)
    file = fields.String(required=True, validate=FILE)
    sha256 = fields.String(required=True, validate=SHA256)
    names = fields.List(fields.String(validate=_printable), required=True, validate=validate.Length(2, MAX_LABELS))
    min_size = Whole(required=True, validate=validate.Range(1, MAX_SIDE))
    max_size = Whole(required=True, validate=validate.Range(1, MAX_SIDE))
    megabytes = Number(required=True, validate=validate.Range(0, 1e6))
    ap = Number(required=True, validate=validate.Range(-1, 1))
    speed = fields.String(required=True, validate=_printable)
    export_sha256 = fields.String(validate=SHA256)
    calibration = fields.List(
        fields.List(Number(validate=validate.Range(0, 1)), validate=validate.Length(equal=2)),
        validate=validate.Length(0, 1000),
    )

    @validates_schema
    def _check_order(self, facts: dict[str, Any], **_: Any) -> None:
        """The sizes fit each other, and the points of the calibration go up."""
        if facts.get("min_size", 0) > facts.get("max_size", MAX_SIDE):
            raise ValidationError("Must not be larger than max_size.", "min_size")
        if any(a > b for points in pairwise(facts.get("calibration", [])) for a, b in zip(*points, strict=True)):
            raise ValidationError("Must be points that go up.", "calibration")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError if a name is in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice[:100]} is there twice")
    return found


def first_error(messages: Any) -> str:
    """The first of marshmallow's messages in one line, after the names that lead to it: `names.3: Not a string.`."""
    path = []
    while isinstance(messages, Mapping):
        name, messages = next(iter(messages.items()))
        path.append(str(name))
    return f"{'.'.join(path)}: {messages[0]}".removeprefix("_schema: ")
