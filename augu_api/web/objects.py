"""The images blueprint."""

from flask import Blueprint, Response, request
from PIL import Image
from werkzeug.exceptions import NotAcceptable

from augu_api.detection import select
from augu_api.detection.drawing import annotated_png
from augu_api.flags import Flag
from augu_api.web.auth import requires
from augu_api.web.body import submitted
from augu_api.web.envelope import success
from augu_api.web.metrics import observe
from augu_api.web.schemas import ImageObjects
from augu_api.web.service import service

JSON, PNG = "application/json", "image/png"
REPLY = ImageObjects()
images = Blueprint("images", __name__, url_prefix="/images/classify/objects")


@images.post("")
@requires(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, in_line=True)
def objects() -> Response:
    """Recognise the objects in a photo; who accepts image/png rather than JSON gets the photo with their boxes."""
    detector = service.detector
    mimetype = _preferred()
    query = service.query.load(request.args)
    fields = submitted(request)
    with service.line.turn() as turn:
        photo = service.body.load(fields)["data"]
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
    """What the caller would rather have, JSON or PNG; raises NotAcceptable if neither."""
    accepted = request.accept_mimetypes
    if not accepted.provided:
        return JSON
    best = accepted.best_match([JSON, PNG])
    if best is None:
        raise NotAcceptable
    return best


@images.get("/names")
def names() -> Response:
    """List the categories that the loaded model knows."""
    return success({"names": service.detector.names})
