"""DeepStack's protocol, which Home Assistant, Frigate, Blue Iris and Agent DVR speak."""

from functools import cache
from typing import Any

from flask import Blueprint, Response, g
from marshmallow import ValidationError

from augu_api.detection import select
from augu_api.flags import Flag
from augu_api.web import envelope
from augu_api.web.auth import Gates, bearer_token, receive
from augu_api.web.body import Request, request
from augu_api.web.deepstack_schemas import DeepStackFailure, DeepStackReply, DeepStackRequest
from augu_api.web.docs.examples import SIGN_FILE
from augu_api.web.envelope import Failure, json_reply
from augu_api.web.monitoring import observe
from augu_api.web.operation import Content, Operation, Shape
from augu_api.web.service import service

MAX_PARTS = 8  # its clients send three
MAX_TEXT = 128 * 1024  # for the headers or the text of a part
REPLY = DeepStackReply()
FAILURE = DeepStackFailure()
STOP_SIGN = {"confidence": 0.8649, "label": "stop sign", "y_min": 6, "x_min": 5, "y_max": 39, "x_max": 42}
FORM = {"sign": {"summary": "The field image.", **SIGN_FILE["sign"]}}
form_of = cache(DeepStackRequest)  # making a schema takes longer than loading with it
deepstack = Blueprint("deepstack", __name__, url_prefix="/v1/vision")


def failure_body(failure: Failure) -> dict[str, Any]:
    """The body of a failure in the protocol's own shape."""
    reasons = [f"{field}: {' '.join(said)}" for field, said in (failure.details or {}).items()]
    error = " ".join(reasons) or envelope.failure_body(failure)["message"]
    body: dict[str, Any] = FAILURE.dump({"error": error})
    return body


envelope.register(deepstack, failure_body)


def _token() -> str | None:
    """The bearer token or the form's `api_key`. That is read before authentication, in room of the caller's address."""
    if token := bearer_token():
        return token
    receive(request.remote_addr)
    return _with_form().form.get("api_key")


def _with_form() -> Request:
    """The request, once its form is known to have few parts and short heads. Raises ValidationError."""
    request.max_form_memory_size = MAX_TEXT
    if request.want_form_data_parsed and request.get_data() and not request.is_form(MAX_PARTS):
        raise ValidationError(f"Not a form of at most {MAX_PARTS} parts, each with a short head.", "data")
    return request


@deepstack.post("/detection")
@Gates(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, slot=True, token=_token)
@Operation(
    body={"multipart/form-data": Content(DeepStackRequest, FORM)},
    replies={
        "application/json": Content(
            DeepStackReply, {"success": {"value": {"success": True, "predictions": [STOP_SIGN], "duration": 0}}}
        )
    },
    failures={"body": Failure(400, details={"image": ["Not an image of an accepted format."]})},
    shape=Shape(failure_body, DeepStackFailure),
)
def detection() -> Response:
    """Recognise the objects in a photo, for a program that speaks DeepStack's protocol."""
    detector = service.detector
    with service.admission.turn(g.user.id) as turn:
        sent = _with_form()
        form = sent.form.to_dict() | {name: part.read() for name, part in sent.files.items()}
        fields = form_of(service.settings.max_pixels).load(form)
        min_score = round(fields["min_confidence"] * 100, 6)  # 0.07 * 100 is more than 7
        detections = detector.detect(fields["image"], all_cores=turn.alone)
        found = select(detections, min_score=min_score, limit=100, names=None)
    observe(found, turn.milliseconds)
    return json_reply(REPLY.dump({"predictions": found}))
