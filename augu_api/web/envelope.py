"""The shape of every reply: a JSON object of `statusCode`, `error`, `message` and `data` or `details`."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Response, g
from flask.sansio.scaffold import Scaffold
from limits.errors import StorageError
from marshmallow import ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from augu_api.detection import NoDetector
from augu_api.store.database import explain
from augu_api.web.rooms import QueueFull

MESSAGES = {
    400: "Invalid request body.",
    401: "You are not authorized.",
    404: "There is nothing here.",
    405: "This method is not allowed here.",
    406: "This endpoint returns application/json or image/png only.",
    500: "Something went wrong on our side.",
    503: "The service cannot answer right now. Please try again later.",
}
RETRY_SECONDS = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a request is not fulfilled.

    status: the HTTP status
    reason: its label in augu_refusals_total; empty if it is not counted there
    message: the sentence for a person; each status has a default one
    details: the reasons by field
    retry_after: the whole seconds to wait
    allow: the methods that a 405 allows, comma-separated
    """

    status: int
    reason: str = ""
    message: str = ""
    details: Any = None
    retry_after: int | None = None
    allow: str = ""


class Refused(Exception):
    """A request that is turned away, and how it fails."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def success(data: Any) -> Response:
    """200: {"statusCode":200,"error":null,"message":"Request fulfilled.","data":…}."""
    return json_reply(success_body(data))


def success_body(data: Any) -> dict[str, Any]:
    """The body of a success."""
    return {"statusCode": 200, "error": None, "message": "Request fulfilled.", "data": data}


def failure_body(failure: Failure) -> dict[str, Any]:
    """The body of a failure: {"statusCode":…,"error":…,"message":…} and, if there are any, "details" by field."""
    status = failure.status
    message = failure.message or MESSAGES.get(status) or HTTPStatus(status).description
    body = {"statusCode": status, "error": error_of(status), "message": message}
    return body | ({"details": failure.details} if failure.details else {})


def failure_reply(failure: Failure, shape: Callable[[Failure], dict[str, Any]] = failure_body) -> Response:
    """The reply to a request that failed, with the headers that belong to its status."""
    response = json_reply(shape(failure), failure.status)
    if failure.retry_after is not None:
        response.headers["Retry-After"] = str(failure.retry_after)
        if failure.status in (403, 429):  # this user has to wait, not every client
            response.headers["X-Retry-After"] = str(failure.retry_after)
    if failure.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if failure.allow:  # RFC 9110 requires it on a 405
        response.headers["Allow"] = failure.allow
    return response


def error_of(status: int) -> str:
    """The short name of a failure: HTTP's own, except that 400 is spelled as in the original API."""
    return "Bad request" if status == 400 else HTTPStatus(status).phrase


def json_reply(body: dict[str, Any], status: int = 200) -> Response:
    """A reply whose body is minified JSON, its keys in the order given."""
    return Response(minified(body), status, mimetype="application/json")


def minified(body: dict[str, Any]) -> str:
    """The body as JSON without white space."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


# --- which error becomes which reply


def _http(error: HTTPException) -> Failure:
    return Failure(error.code or 500, allow=error.get_response().headers.get("Allow", ""))


def _unavailable(error: NoDetector | SQLAlchemyError | StorageError) -> Failure:
    logger.error("%s", "There is no detector" if isinstance(error, NoDetector) else explain(error))
    return Failure(503, "unavailable", retry_after=RETRY_SECONDS)


def _unexpected(error: Exception) -> Failure:
    logger.error("An unexpected error", exc_info=error)
    return Failure(500)


FULL = Failure(503, "admission", "Too many requests are waiting. Please try again later.", retry_after=RETRY_SECONDS)
ERRORS: dict[type[Exception], Callable[[Any], Failure]] = {
    Refused: lambda error: error.failure,
    ValidationError: lambda error: Failure(400, "body", details=error.normalized_messages()),
    RequestEntityTooLarge: lambda _: Failure(400, "body", details={"data": ["The body is too large."]}),
    QueueFull: lambda _: FULL,
    NoDetector: _unavailable,
    StorageError: _unavailable,
    DBAPIError: _unavailable,
    TimeoutError: _unavailable,
    HTTPException: _http,
    Exception: _unexpected,
}
"""Every error that a request can end with, and the failure that its caller gets."""


def register(scaffold: Scaffold, shape: Callable[[Failure], dict[str, Any]] = failure_body) -> None:
    """Answer every error of an application, in the shape that is given."""
    for error, failure_of in ERRORS.items():
        scaffold.register_error_handler(error, partial(_answer, failure_of, shape))


def _answer(
    failure_of: Callable[[Exception], Failure], shape: Callable[[Failure], dict[str, Any]], error: Exception
) -> Response:
    failure = failure_of(error)
    if failure.reason:
        g.refusal = failure.reason
    return failure_reply(failure, shape)
