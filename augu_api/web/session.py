"""The session blueprint."""

from flask import Blueprint, Response, g

from augu_api.web.auth import requires
from augu_api.web.envelope import success
from augu_api.web.schemas import SessionDetails

session = Blueprint("session", __name__)


@session.get("/session")
@requires()
def details() -> Response:
    """Show the caller's account."""
    return success(SessionDetails().dump(g.user))
