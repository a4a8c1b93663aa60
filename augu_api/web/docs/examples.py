"""Examples for the OpenAPI document: tests send each request as it is, and compare each reply with the service's."""

import base64
from pathlib import Path
from typing import Any

from augu_api.web.deepstack import translated
from augu_api.web.envelope import failure, success

Examples = dict[str, dict[str, Any]]
"""By name, as OpenAPI spells them: with a `value`, or the path of a file as `externalValue`."""

SIGN = base64.b64encode(Path(__file__).with_name("assets").joinpath("sign.png").read_bytes()).decode()
FORM: Examples = {"sign": {"value": {"data": SIGN}}}
ARGUMENTS = {"name": "icon.svg"}  # of a route
REQUESTS: dict[str, dict[str, Examples]] = {
    "images.objects": {
        "image/png": {"sign": {"externalValue": "/assets/sign.png"}},
        "text/plain": {"sign": {"value": SIGN}},
        "application/json": FORM,
        "application/x-www-form-urlencoded": FORM,
        "multipart/form-data": FORM,
    },
    "deepstack.detection": {
        "multipart/form-data": {"sign": {"summary": "The field image.", "externalValue": "/assets/sign.png"}}
    },
}


def _failure(status: int, message: str = "", **details: list[str]) -> dict[str, Any]:
    return {"value": failure(status, message, details).get_json()}


def _success(**data: Any) -> dict[int, Examples]:
    return {200: {"success": {"value": success(data).get_json()}}}


TOKEN: Examples = {"token": _failure(401)}
BAN: Examples = {
    "ban": _failure(403, "You are banned."),
    "ban for a while": _failure(403, "You are banned for another 412 seconds."),
}
FLAGS = _failure(
    403,
    "You do not have the flag required to access this endpoint. "
    "Please refer to the documentation at /docs for more information.",
)
QUOTA: Examples = {"quota": _failure(429, "You have made too many requests. Please wait 42 seconds.")}
LINE = _failure(503, "Too many requests are waiting. Please try again later.")
UNAVAILABLE: Examples = {"unavailable": _failure(503)}
GATES = {401: TOKEN, 403: {"flags": FLAGS} | BAN, 429: QUOTA, 503: {"line": LINE} | UNAVAILABLE}
RANGE = "Must be greater than or equal to 0 and less than or equal to {}."


def _deepstack(examples: Examples) -> Examples:
    return {name: {"value": translated(example["value"])} for name, example in examples.items()}


REPLIES: dict[str, dict[int, Examples]] = {
    "images.objects": GATES
    | _success(
        objects=[{"name": "stop sign", "x": 5.91, "y": 6.05, "width": 36.06, "height": 32.15, "score": 86.49}], took=12
    )
    | {
        400: {
            "body": _failure(400, data=["Not a PNG image."]),
            "query": _failure(400, min_score=[RANGE.format(100)]),
        },
        406: {"accept": _failure(406)},
    },
    "images.names": _success(names=["person", "bicycle", "stop sign"]) | {503: UNAVAILABLE},
    "session.details": _success(
        id="367302593753645057",
        flags=405,
        flagNames=["TEXT", "IMAGES", "IMAGES_OBJECTS", "INFORMATION", "EXPERIMENTAL"],
        ratelimit=0.8,
    )
    | {401: TOKEN, 403: BAN, 429: QUOTA, 503: UNAVAILABLE},
    "ops.live": _success(live=True),
    "ops.ready": _success(
        model="bundled", engine="onnx", sha256="ecbbeda8a766dad62f0ae8e78a968e6fd90bcd77534e5d210b9cddef866ad800"
    )
    | {503: UNAVAILABLE},
    "ops.prometheus": {
        200: {"success": {"value": 'augu_requests_total{agent="curl",route="/session",status="200"} 3.0\n'}},
        401: TOKEN,
        403: {"metrics": _failure(403, "Metrics are shown only if AUGU_METRICS_TOKEN is set.")},
    },
    "docs.page": {200: {"page": {"externalValue": "/"}}},
    "docs.documentation": {200: {"page": {"externalValue": "/docs"}}},
    "docs.openapi": {200: {"document": {"externalValue": "/openapi.json"}}},
    "docs.asset": {
        200: {"icon": {"externalValue": "/assets/icon.svg"}},
        404: {"unknown": _failure(404)},
    },
    "deepstack.detection": {status: _deepstack(examples) for status, examples in GATES.items()}
    | {
        200: {
            "success": {
                "value": {
                    "success": True,
                    "predictions": [
                        {"confidence": 0.8649, "label": "stop sign", "y_min": 6, "x_min": 5, "y_max": 39, "x_max": 42}
                    ],
                    "duration": 0,
                }
            }
        },
        400: _deepstack({"body": _failure(400, image=["Not an image of an accepted format."])}),
    },
}
