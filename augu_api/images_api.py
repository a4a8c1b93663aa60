"""The images blueprint."""

from flask import Blueprint, Response, request

from augu_api.auth import requires
from augu_api.body import submitted
from augu_api.detection import select
from augu_api.envelope import success
from augu_api.extensions import service
from augu_api.flags import Flag
from augu_api.metrics import observe
from augu_api.schemas import ImageObjects, ObjectsQuery, ObjectsRequest

images = Blueprint("images", __name__, url_prefix="/images/classify/objects")


@images.post("")
@requires(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, in_line=True)
def objects() -> Response:
    """Recognise the objects in a photo."""
    detector = service.detector
    query = ObjectsQuery(detector.names).load(request.args)
    fields = submitted(request)
    with service.line.turn() as turn:
        image = ObjectsRequest(service.settings.max_pixels).load(fields)["data"]
        found = select(detector.detect(image), **query)
    observe(found, turn.milliseconds)
    return success(ImageObjects().dump({"objects": found, "took": round(turn.milliseconds)}))


@images.get("/names")
def names() -> Response:
    """List the categories that the loaded model knows."""
    return success({"names": service.detector.names})
