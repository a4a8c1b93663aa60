"""Hooks for schemathesis: photos, and how values change when they are sent as a form."""

import base64
from typing import Any

import schemathesis
from hypothesis import strategies as st

from augu_api.web.deepstack_callers import MAX_PARTS
from augu_api.web.docs.examples import SIGN

PNG = base64.b64decode(SIGN)
schemathesis.openapi.format("byte", st.just(SIGN))
schemathesis.openapi.format("binary", st.just(PNG))
schemathesis.openapi.media_type("image/png", st.just(PNG))


@schemathesis.hook
def filter_body(_: schemathesis.HookContext, body: Any) -> bool:
    """A form turns null and numbers into text, an empty list into nothing, and a list into as many parts.

    What it sends is then no longer wrong, or too much.
    """
    if not isinstance(body, dict):
        return True
    parts = sum(len(value) if isinstance(value, list) else 1 for value in body.values())
    return (
        parts <= MAX_PARTS
        and isinstance(body.get("api_key", ""), str)
        and not isinstance(body.get("min_confidence"), list)
    )
