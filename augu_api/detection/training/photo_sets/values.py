"""Numbers, ids and names from files."""

import math
from typing import Any

LIMIT = 1e7  # pixels: a box beyond it is nonsense
NOT_OBJECTS = {"background", "n/a"}  # what label 0 and unused labels are called


def finite(value: Any) -> bool:
    """Whether it is a number of a sensible size."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < LIMIT


def key(id: Any) -> int | str | None:
    """An id as it is looked up: "7" and 7.0 are 7; None if it is no id."""
    if isinstance(id, float) and id.is_integer():
        return int(id)
    if isinstance(id, str):
        text = id.strip()[:200]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text or None
    return id if type(id) is int else None


def is_name(name: Any) -> bool:
    """Whether it can be the name of a category of objects."""
    return isinstance(name, str) and name.isprintable() and name.strip().lower() not in NOT_OBJECTS | {""}
