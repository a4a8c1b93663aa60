"""Keep of a TIFF what makes its pixels, before anything is decoded. Source of the format: TIFF 6.0, Adobe, 1992."""

import struct
from contextlib import suppress

from augu_api.photos.checks import ImageRejected

CORRUPT = "Truncated or corrupt image."
COMPRESSION, STRIPS, ORIENTATION = 259, 273, 274
KEPT = frozenset((256, 257, 258, COMPRESSION, 262, 266, STRIPS, ORIENTATION, 277, 278, 279, 284, 317, 320, 338, 339))
COMPRESSIONS = frozenset((1, 5, 8, 32946))  # none, LZW, and deflate by two numbers
MAX_VALUES = 1 << 13  # of a tag, such as the places of the strips: Pillow takes a second for 65,536 of them
ENTRY = 12  # bytes
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
TYPES = frozenset((1, 3, 4))  # of values: bytes, and numbers of 2 and 4 bytes
SIGNATURES = tuple(ORDERS)


def without_metadata(data: bytes) -> bytes:
    """The same TIFF, whose tags are those that its pixels need, with a few types and bounded sizes.

    Raises ImageRejected if its compression is none of the plain ones, each of which is a decoder of its own.
    """
    order = ORDERS[data[:4]]
    try:
        at, room, tags = _directory(data, order)
    except struct.error:
        raise ImageRejected(CORRUPT) from None
    compression = tags.get(COMPRESSION, (3, 1, struct.pack(order + "H", 1)))[2]
    if struct.unpack_from(order + "H", compression)[0] not in COMPRESSIONS or STRIPS not in tags:
        raise ImageRejected("Only TIFFs in strips that are not compressed, or with LZW or deflate, are accepted.")
    entries = [struct.pack(order + "HHI", tag, *kind) + value for tag, (*kind, value) in sorted(tags.items())]
    directory = struct.pack(order + "H", len(tags)) + b"".join(entries)
    return data[:at] + directory.ljust(room, b"\0") + data[at + room :]


def orientation(data: bytes) -> int | None:
    """The orientation that EXIF tells, which has the form of a TIFF; None if it tells none.

    Older releases of Pillow copy what each tag claims to refer to: for a megabyte of tags, as many gigabytes.
    """
    with suppress(struct.error, KeyError):
        order = ORDERS[data[:4]]
        (at,) = struct.unpack_from(order + "I", data, 4)
        (number,) = struct.unpack_from(order + "H", data, at)
        for entry in range(at + 2, at + 2 + number * ENTRY, ENTRY):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", data, entry)
            if tag == ORIENTATION:
                return value if (kind, count) == (3, 1) else None
    return None


def _directory(data: bytes, order: str) -> tuple[int, int, dict[int, tuple[int, int, bytes]]]:
    """Where the first directory is, its bytes, and its tags. Raises ImageRejected, struct.error."""
    (at,) = struct.unpack_from(order + "I", data, 4)
    (number,) = struct.unpack_from(order + "H", data, at)
    room = 2 + number * ENTRY + 4
    if at + room > len(data):
        raise ImageRejected(CORRUPT)
    return at, room, _tags(data, order, range(at + 2, at + 2 + number * ENTRY, ENTRY))


def _tags(data: bytes, order: str, entries: range) -> dict[int, tuple[int, int, bytes]]:
    """By number, the type, the count, and the value or its place."""
    tags: dict[int, tuple[int, int, bytes]] = {}
    for entry in entries:
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        if tag in KEPT:
            if tag in tags or kind not in TYPES or not 0 < count <= MAX_VALUES:
                raise ImageRejected(CORRUPT)
            tags[tag] = kind, count, data[entry + 8 : entry + ENTRY]
    return tags
