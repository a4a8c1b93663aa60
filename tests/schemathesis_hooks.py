"""What schemathesis cannot know: what a photo is, and that a form's field is text. Only its own process reads this."""

import base64
from typing import Any

import schemathesis
from hypothesis import strategies as st

from augu_api.examples import SIGN

PNG = base64.b64decode(SIGN)
schemathesis.openapi.format("byte", st.just(SIGN))
schemathesis.openapi.format("binary", st.just(PNG))
schemathesis.openapi.media_type("image/png", st.just(PNG))


@schemathesis.hook
def filter_body(_: schemathesis.HookContext, body: Any) -> bool:
    """A form turns null and numbers into text, an empty list into nothing: what it sends is then no longer wrong."""
    if not isinstance(body, dict):
        return True
    return isinstance(body.get("api_key", ""), str) and not isinstance(body.get("min_confidence"), list)
