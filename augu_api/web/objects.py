"""The objects blueprint: detect the objects in a photo."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any

from flask import Blueprint, Response, g
from marshmallow import ValidationError

from augu_api.detection import Detection, select
from augu_api.detection.drawing import Picture, annotated_png, shrunk
from augu_api.flags import Flag
from augu_api.web.accept import preferred
from augu_api.web.admission import Turn
from augu_api.web.auth import Gates
from augu_api.web.body import MAX_TEXT, request, submitted
from augu_api.web.docs.examples import SIGN, SIGN_FILE, UNAVAILABLE
from augu_api.web.envelope import Failure, success
from augu_api.web.monitoring import observe
from augu_api.web.operation import Content, Operation, enveloped
from augu_api.web.photo import NO_PNG
from augu_api.web.schemas import CategoryNames, ImageObjects, ObjectsQuery, ObjectsRequest
from augu_api.web.service import service

JSON, PNG = "application/json", "image/png"
FORM = Content(ObjectsRequest, {"sign": {"value": {"data": SIGN}}})
BODY = {
    PNG: Content({}, SIGN_FILE),
    "text/plain": Content({"type": "string", "format": "byte", "minLength": 1}, {"sign": {"value": SIGN}}),
    JSON: FORM,
    "application/x-www-form-urlencoded": FORM,
    "multipart/form-data": FORM,
}
STOP_SIGN = {"name": "stop sign", "x": 5.91, "y": 6.05, "width": 36.06, "height": 32.15, "score": 86.49}
REPLY = ImageObjects()
query_of, body_of = cache(ObjectsQuery), cache(ObjectsRequest)  # making a schema takes longer than loading with it
images = Blueprint("images", __name__, url_prefix="/images/classify/objects")


@images.post("")
@Gates(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, slot=True)
@Operation(
    query=ObjectsQuery,
    body=BODY,
    replies=enveloped(ImageObjects, objects=[STOP_SIGN], took=12) | {PNG: Content({})},
    failures={
        "body": Failure(400, details={"data": [NO_PNG]}),
        "query": Failure(
            400, details={"min_score": ["Must be greater than or equal to 0 and less than or equal to 100."]}
        ),
        "accept": Failure(406),
    },
)
def objects() -> Response:
    """Recognise the objects in a photo; a caller that prefers image/png to JSON gets the photo with their boxes."""
    names = service.detector.names
    mimetype = preferred(request.headers.get("Accept", ""), (JSON, PNG))
    query_of(names).load(request.args)  # a bad one does not wait for the turn
    with ExitStack() as drawing:
        with service.admission.turn(g.user.id) as turn:
            found, picture = _detected(turn, draws=mimetype == PNG)
            if picture:
                drawing.enter_context(service.admission.drawing)
                service.admission.rooms.check_reply(g.user.id)
        observe(found, turn.milliseconds)
        if picture:
            response = Response(annotated_png(*picture), mimetype=PNG)
        else:
            response = success(REPLY.dump({"objects": found, "took": round(turn.milliseconds)}))
    response.vary.add("Accept")
    return response


def _detected(turn: Turn, *, draws: bool) -> tuple[list[Detection], Picture | None]:
    """The objects that were asked for and, if it is to be drawn, the photo. A large one does not outlive the turn."""
    fields = submitted()
    request.forget()
    schema = query_of(service.detector.names)
    query = schema.load(_parameters(fields, schema.fields))
    max_side = query.pop("max_side")
    photo = body_of(service.settings.max_pixels).load(fields)["data"]
    fields.clear()
    found = select(service.detector.detect(photo, all_cores=turn.alone), **query)
    return found, shrunk(photo, found, max_side) if draws else None


def _parameters(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of the query, and those that came in the body instead, as text. Raises ValidationError."""
    parameters: dict[str, str] = request.args.to_dict()
    for name in known.keys() & {name for name, value in fields.items() if value is not None}:
        if name in parameters:
            raise ValidationError("Given twice: in the query and in the body.", name)
        parameters[name] = _as_text(fields[name])
        if len(parameters[name]) > MAX_TEXT:
            raise ValidationError(f"Longer than {MAX_TEXT} characters.", name)
    return parameters


def _as_text(value: Any) -> str:
    """A parameter in JSON as it would be in the query."""
    if isinstance(value, str):
        return value
    return ",".join(map(_as_text, value)) if isinstance(value, list) else json.dumps(value)


@images.get("/names")
@Operation(replies=enveloped(CategoryNames, names=["person", "bicycle", "stop sign"]), failures=UNAVAILABLE)
def names() -> Response:
    """List the categories that the loaded model knows."""
    return success({"names": service.detector.names})
