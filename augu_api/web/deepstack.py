"""DeepStack's protocol, which Home Assistant, Frigate, Blue Iris and Agent DVR speak."""

from typing import Any

from flask import Blueprint, Response, request

from augu_api.detection import select
from augu_api.flags import Flag
from augu_api.web.auth import bearer_token, requires
from augu_api.web.envelope import minified
from augu_api.web.metrics import observe
from augu_api.web.schemas import DeepStackFailure, DeepStackReply
from augu_api.web.service import service

MAX_PARTS = 8  # its clients send three
MAX_TEXT = 128 * 1024  # for the headers or the text of a part
REPLY = DeepStackReply()
deepstack = Blueprint("deepstack", __name__, url_prefix="/v1/vision")


def _token() -> str | None:
    """The Authorization header's or else the form's, which is read before anything is known about the caller."""
    request.max_form_parts, request.max_form_memory_size = MAX_PARTS, MAX_TEXT
    return bearer_token() or request.form.get("api_key")


@deepstack.post("/detection")
@requires(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, in_line=True, token=_token)
def detection() -> Response:
    """Recognise the objects in a photo, for a program that speaks DeepStack's protocol."""
    detector = service.detector
    form = request.form.to_dict() | {name: part.read() for name, part in request.files.items()}
    with service.line.turn() as turn:
        fields = service.form.load(form)
        min_score = round(fields["min_confidence"] * 100, 6)  # 0.07 * 100 is more than 7
        detections = detector.detect(fields["image"], all_cores=turn.alone)
        found = select(detections, min_score=min_score, limit=100, names=None)
    observe(found, turn.milliseconds)
    return Response(minified(REPLY.dump({"predictions": found})), mimetype="application/json")


@deepstack.after_request
def _translate(response: Response) -> Response:
    """Say a failure in the protocol's own shape; status and headers stay."""
    if response.status_code != 200:
        response.set_data(minified(translated(response.get_json())))
    return response


def translated(envelope: dict[str, Any]) -> dict[str, Any]:
    """A failure in the protocol's own shape."""
    reasons = [f"{field}: {' '.join(said)}" for field, said in envelope.get("details", {}).items()]
    failure: dict[str, Any] = DeepStackFailure().dump({"error": " ".join(reasons) or envelope["message"]})
    return failure
