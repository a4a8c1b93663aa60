"""The one owner of the reply's shape: a JSON object of `statusCode`, `error`, `message` and `data` or `details`."""

import json
import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g
from limits.errors import StorageError
from marshmallow import ValidationError
from sqlalchemy.exc import DBAPIError, TimeoutError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from augu_api.web.admission import LineFull
from augu_api.web.service import NoDetector

MESSAGES = {
    400: "Invalid request body.",
    401: "You are not authorized.",
    404: "There is nothing here.",
    405: "This method is not allowed here.",
    406: "This comes as application/json or image/png only.",
    500: "Something went wrong on our side.",
    503: "The service cannot answer right now. Please try again later.",
}
RETRY_SECONDS = 1
logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that a gate turned away.

    `reason` tells refusals apart in the metrics, `retry_after` is in whole seconds.
    """

    def __init__(self, status: int, reason: str, message: str = "", retry_after: int | None = None) -> None:
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after


def success(data: Any) -> Response:
    """200: {"statusCode":200,"error":null,"message":"Request fulfilled.","data":…}."""
    return _reply(200, {"error": None, "message": "Request fulfilled.", "data": data})


def failure(status: int, message: str = "", details: Any = None, retry_after: int | None = None) -> Response:
    """{"statusCode":…,"error":…,"message":…} and, if there are any, "details" by field."""
    body = {"error": error_of(status), "message": message or MESSAGES.get(status) or HTTPStatus(status).description}
    response = _reply(status, body | ({"details": details} if details else {}))
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if retry_after is not None and status in (403, 429):  # the user is to wait, not everybody
        response.headers["X-Retry-After"] = str(retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def error_of(status: int) -> str:
    """The short name of a failure: HTTP's own, but for 400 as the original API spells it."""
    return "Bad request" if status == 400 else HTTPStatus(status).phrase


def minified(body: dict[str, Any]) -> str:
    """The body as JSON in its own order, without blanks."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def _reply(status: int, body: dict[str, Any]) -> Response:
    return Response(minified({"statusCode": status} | body), status, mimetype="application/json")


def register(app: Flask) -> None:
    """Answer every error of the application in the envelope."""
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(LineFull, _line_full)
    for error in (NoDetector, StorageError, DBAPIError, TimeoutError):
        app.register_error_handler(error, _unavailable)
    app.register_error_handler(Exception, _unexpected)


def _refused(error: Refused) -> Response:
    g.refusal = error.reason
    return failure(error.status, error.message, retry_after=error.retry_after)


def _invalid(error: ValidationError) -> Response:
    g.refusal = "body"
    return failure(400, details=error.normalized_messages())  # type: ignore[no-untyped-call]


def _too_large(_: RequestEntityTooLarge) -> Response:
    g.refusal = "body"
    return failure(400, details={"data": ["The body is too large."]})


def _line_full(_: LineFull) -> Response:
    g.refusal = "line"
    return failure(503, "Too many requests are waiting. Please try again later.", retry_after=RETRY_SECONDS)


def _http(error: HTTPException) -> Response:
    response = failure(error.code or 500)
    if allowed := error.get_response().headers.get("Allow"):  # RFC 9110 asks for it on 405
        response.headers["Allow"] = allowed
    return response


def _unavailable(error: Exception) -> Response:
    g.refusal = "unavailable"
    logger.error("%s is not available", "The detector" if isinstance(error, NoDetector) else "The database")
    return failure(503, retry_after=RETRY_SECONDS)


def _unexpected(error: Exception) -> Response:
    logger.error("An unexpected error", exc_info=error)
    return failure(500)
