"""DeepStack's protocol, with CodeProject.AI's additions, which Home Assistant, Frigate, Blue Iris and others speak."""

import time
from functools import cache
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from flask import Blueprint, Response, g, request
from marshmallow import Schema

from augu_api.detection import select
from augu_api.flags import Flag
from augu_api.web import envelope, request_log
from augu_api.web.auth import Gates
from augu_api.web.deepstack_callers import MB, keyless_user, token, with_form
from augu_api.web.deepstack_schemas import (
    DeepStackFailure,
    DeepStackModels,
    DeepStackReply,
    DeepStackRequest,
    DeepStackUpdate,
    DeepStackVersion,
)
from augu_api.web.docs.examples import SIGN_FILE, UNAVAILABLE
from augu_api.web.envelope import Failure, Refused, json_reply
from augu_api.web.monitoring import observe
from augu_api.web.operation import Content, Operation, Shape
from augu_api.web.service import service

PREFIX = "/v1"
FAILURE, REPLY, MODELS = DeepStackFailure(), DeepStackReply(), DeepStackModels()
VERSION, UPDATE = DeepStackVersion(), DeepStackUpdate()
PROVIDER = "CPU"  # of either engine
ALIAS = "ipcam-combined"  # CodeProject.AI's model of people, vehicles and animals, which many programs ask for
ALIAS_NEEDS = frozenset(("person", "car", "dog"))
STOP_SIGN = {"confidence": 0.8649, "label": "stop sign", "y_min": 6, "x_min": 5, "y_max": 39, "x_max": 42}
FOUND = {"success": True, "predictions": [STOP_SIGN], "duration": 0, "message": "Found stop sign.", "count": 1}
TIMES = {"inferenceMs": 9, "processMs": 12, "analysisRoundTripMs": 14}
ABOUT = {
    "code": 200,
    "command": "detect",
    "moduleId": "AuguAPI",
    "moduleName": "Augu API",
    "executionProvider": PROVIDER,
}
LISTED = {"success": True, "models": ["bundled"], "analysisRoundTripMs": 1} | ABOUT | {"command": "list-custom"}
FORM = {"sign": {"summary": "The field image.", **SIGN_FILE["sign"]}}
FIRST = {"major": 1, "minor": 0, "patch": 0}
NO_UPDATES = "This service does not look for updates."
NO_UPDATE = {"success": True, "message": NO_UPDATES, "version": FIRST, "code": 200}
NO_UPDATE |= {"updateAvailable": False, "current": FIRST, "latest": FIRST}
NO_MODEL = Failure(404, message="There is no such model; /v1/vision/custom/list names those that there are.")
form_of = cache(DeepStackRequest)  # making a schema takes longer than loading with it
deepstack = Blueprint("deepstack", __name__, url_prefix=PREFIX)


def failure_body(failure: Failure) -> dict[str, Any]:
    """The body of a failure in the protocol's own shape."""
    reasons = [f"{field}: {' '.join(said)}" for field, said in (failure.details or {}).items()]
    message = envelope.failure_body(failure)["message"]
    error = " ".join(reasons if reasons and failure.status == 400 else [message, *reasons])
    body: dict[str, Any] = FAILURE.dump({"error": error, "message": error, "code": failure.status})
    return body


def shape(failure: Failure) -> dict[str, Any]:
    """The body of a failure: in the protocol's shape under its prefix, even if there is no such route."""
    is_here = request.path.startswith(f"{PREFIX}/")
    return failure_body(failure) if is_here else envelope.failure_body(failure)


def _replies(schema: type[Schema], example: dict[str, Any]) -> dict[str, Content]:
    return {"application/json": Content(schema, {"success": {"value": example}})}


SHAPE = Shape(failure_body, DeepStackFailure)
GATES = Gates(Flag.IMAGES_OBJECTS | Flag.EXPERIMENTAL, slot=True, token=token, keyless=keyless_user)
BODY = {"multipart/form-data": Content(DeepStackRequest, FORM)}
BAD_BODY = {"body": Failure(400, details={"image": ["Not an image of an accepted format."]})}


@deepstack.post("/vision/detection", strict_slashes=False)
@GATES
@Operation(body=BODY, replies=_replies(DeepStackReply, FOUND | TIMES | ABOUT), failures=BAD_BODY, shape=SHAPE)
def detection() -> Response:
    """Recognise the objects in a photo, for a program that speaks DeepStack's protocol."""
    return _detect("detect")


@deepstack.post("/vision/custom/<model>", strict_slashes=False)
@GATES
@Operation(
    arguments={"model": "bundled"},
    body=BODY,
    replies=_replies(DeepStackReply, FOUND | TIMES | ABOUT | {"command": "custom"}),
    failures=BAD_BODY | {"model": NO_MODEL},
    shape=SHAPE,
)
def custom(model: str) -> Response:
    """Recognise the objects in a photo with a model by name: the one that is loaded, or `ipcam-combined`."""
    if model.lower() not in map(str.lower, _models()):
        raise Refused(NO_MODEL)
    return _detect("custom")


def _detect(command: str) -> Response:
    detector = service.detector
    with service.admission.turn(g.user.id) as turn:
        sent = with_form()
        form = sent.form.to_dict() | {name: part.read() for name, part in sent.files.items()}
        sent.forget()
        fields = form_of(service.settings.max_pixels, service.settings.deepstack_mb * MB).load(form)
        form.clear()
        start = time.perf_counter()
        detections = detector.detect(fields["image"], all_cores=turn.alone)
        inference = (time.perf_counter() - start) * 1000
        min_score = round(fields["min_confidence"] * 100, 6)  # 0.07 * 100 is more than 7
        found = select(detections, min_score=min_score, limit=100, names=None)
    observe(found, turn.milliseconds)
    names = ", ".join(dict.fromkeys(one.name for one in found))
    reply = {"predictions": found, "count": len(found), "message": f"Found {names}." if found else "No objects found."}
    times = {"inference": round(inference), "process": round(turn.milliseconds)}
    return json_reply(REPLY.dump(reply | times | {"command": command} | _common()))


def _common() -> dict[str, Any]:
    return {"round_trip": round(request_log.seconds() * 1000), "provider": PROVIDER}


def _models() -> list[str]:
    """The names under which the loaded model answers."""
    detector = service.detector
    return [PurePath(detector.facts["model"]).name, *([ALIAS] if set(detector.names) >= ALIAS_NEEDS else [])]


@deepstack.route("/vision/custom/list", methods=["GET", "POST"], strict_slashes=False)
@deepstack.route("/vision/list-custom", methods=["GET", "POST"], strict_slashes=False)
@Operation(
    replies=_replies(DeepStackModels, LISTED),
    failures=UNAVAILABLE,
    shape=SHAPE,
)
def models() -> Response:
    """List the names of the model that is loaded, for a program that asks for custom models. No token needed."""
    return json_reply(MODELS.dump({"models": _models()} | _common()))


def _version() -> dict[str, Any]:
    major, minor, patch = version("augu-api").split(".")[:3]
    return {"major": int(major), "minor": int(minor), "patch": int(patch)}


@deepstack.get("/status/ping", strict_slashes=False)
@deepstack.get("/server/status/ping", strict_slashes=False)
@Operation(
    replies=_replies(DeepStackVersion, {"success": True, "message": "1.0.0", "version": FIRST, "code": 200}),
    shape=SHAPE,
)
def ping() -> Response:
    """Say that the service responds, and its version. No token needed."""
    return json_reply(VERSION.dump({"message": version("augu-api"), "version": _version()}))


@deepstack.get("/status/updateavailable", strict_slashes=False)
@Operation(
    replies=_replies(DeepStackUpdate, NO_UPDATE),
    shape=SHAPE,
)
def update_available() -> Response:
    """Say that no update is known: the service does not look for updates. No token needed."""
    own = _version()
    return json_reply(UPDATE.dump({"message": NO_UPDATES, "version": own, "current": own, "latest": own}))
