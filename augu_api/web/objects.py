"""The objects blueprint: detect the objects in a photo."""

from functools import cache

from flask import Blueprint, Response, request
from PIL import Image
from werkzeug.exceptions import NotAcceptable

from augu_api.detection import select
from augu_api.detection.drawing import annotated_png
from augu_api.flags import Flag
from augu_api.web.auth import Gates
from augu_api.web.body import submitted
from augu_api.web.docs.examples import SIGN, SIGN_FILE, UNAVAILABLE
from augu_api.web.envelope import Failure, success
from augu_api.web.monitoring import observe
from augu_api.web.operation import Content, Operation, enveloped
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
        "body": Failure(400, details={"data": ["Not a PNG image."]}),
        "query": Failure(
            400, details={"min_score": ["Must be greater than or equal to 0 and less than or equal to 100."]}
        ),
        "accept": Failure(406),
    },
)
def objects() -> Response:
    """Recognise the objects in a photo; a caller that prefers image/png to JSON gets the photo with their boxes."""
    detector = service.detector
    mimetype = _preferred()
    query = query_of(detector.names).load(request.args)
    fields = submitted(request)
    with service.admission.turn() as turn:
        photo = body_of(service.settings.max_pixels).load(fields)["data"]
        found = select(detector.detect(photo, all_cores=turn.alone), **query)
        picture = annotated_png(Image.fromarray(photo), found) if mimetype == PNG else None
    observe(found, turn.milliseconds)
    if picture:
        response = Response(picture, mimetype=PNG)
    else:
        response = success(REPLY.dump({"objects": found, "took": round(turn.milliseconds)}))
    response.vary.add("Accept")
    return response


def _preferred() -> str:
    """The media type that the caller prefers, JSON or PNG; raises NotAcceptable if it takes neither."""
    accepted = request.accept_mimetypes
    if not accepted.provided:
        return JSON
    best = accepted.best_match([JSON, PNG])
    if best is None:
        raise NotAcceptable
    return best


@images.get("/names")
@Operation(replies=enveloped(CategoryNames, names=["person", "bicycle", "stop sign"]), failures=UNAVAILABLE)
def names() -> Response:
    """List the categories that the loaded model knows."""
    return success({"names": service.detector.names})
