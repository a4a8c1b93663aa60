"""The session blueprint: the caller's own account."""

from flask import Blueprint, Response, g

from augu_api.web.auth import Gates
from augu_api.web.envelope import success
from augu_api.web.operation import Operation, enveloped
from augu_api.web.schemas import SessionDetails

session = Blueprint("session", __name__)


@session.get("/session")
@Gates()
@Operation(
    replies=enveloped(
        SessionDetails,
        id="367302593753645057",
        flags=405,
        flagNames=["TEXT", "IMAGES", "IMAGES_OBJECTS", "INFORMATION", "EXPERIMENTAL"],
        ratelimit=0.8,
    )
)
def details() -> Response:
    """Show the caller's account."""
    return success(SessionDetails().dump(g.user))
