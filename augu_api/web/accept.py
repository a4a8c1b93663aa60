"""What a client accepts, read as generously as clients write it."""

import re
from collections.abc import Sequence

from werkzeug.exceptions import NotAcceptable

WORD = r"[\w!#$%&'*+.^`|~-]+"
RANGE = re.compile(rf"{WORD}/{WORD}")
# Possessive: to try again with fewer blanks would take hours for the 8,000 that a header may have
QUALITY = re.compile(r"\s*+q\s*+=\s*+\"?+([\d.]*+)\s*+\"?+\s*+")


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The offered media type that an Accept header prefers, the first one at a tie; raises NotAcceptable if none.

    Parameters other than `q` say nothing of these types. A range that is not of the form type/subtype, such as `*` or
    `json`, stands for any type, and a quality that is no number for 1.
    """
    ranges = [_read(each) for each in accept.split(",") if each.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda kind: _wish(kind, ranges))
    if not _wish(best, ranges)[0]:
        raise NotAcceptable
    return best


def _read(text: str) -> tuple[str, float]:
    """One range and its quality."""
    kind, *parameters = text.strip().lower().split(";")
    kind = kind.strip()
    found = next(filter(None, map(QUALITY.fullmatch, parameters)), None)
    try:
        quality = min(float(found[1]), 1) if found else 1
    except ValueError:
        quality = 1
    return (kind if RANGE.fullmatch(kind) else "*/*"), quality


def _wish(kind: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """The quality of a media type, by the most specific range that it is in, and how specific that is."""
    spellings = "*/*", f"{kind.partition('/')[0]}/*", kind
    found = [(spellings.index(name), quality) for name, quality in ranges if name in spellings]
    specific, quality = max(found, default=(0, 0.0))
    return quality, specific
