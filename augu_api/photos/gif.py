"""Take the first image out of a GIF, before anything is decoded. Source of the format: GIF89a, CompuServe, 1990."""

import struct

from augu_api.photos.checks import MAX_SEGMENTS, ImageRejected, check_pixels

SIGNATURE = b"GIF8"
CORRUPT = "Truncated or corrupt image."
EXTENSION, CONTROL, IMAGE = 0x21, 0xF9, 0x2C


def first_image(data: bytes, max_pixels: int) -> bytes:
    """A GIF of the header, what is transparent, and the first image: Pillow takes seconds for a megabyte of comments.

    Raises ImageRejected if it is truncated or has too many pixels: Pillow makes a picture of that size to open it.
    """
    try:
        return _first_image(data, max_pixels)
    except (IndexError, struct.error):
        raise ImageRejected(CORRUPT) from None


def _first_image(data: bytes, max_pixels: int) -> bytes:
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    at = start = 13 + _palette(packed)
    control = b""
    while data[at] == EXTENSION:
        begin, at = at, _end(data, at + 2)
        if data[begin + 1 : begin + 3] == b"\xf9\4":  # what is transparent; how the image is removed does not matter
            control = b"\x21\xf9\4" + bytes((data[begin + 3] & 1,)) + data[begin + 4 : begin + 7] + b"\0"
    if data[at] != IMAGE:
        raise ImageRejected(CORRUPT)
    x, y, image_width, image_height, packed = struct.unpack_from("<HHHHB", data, at + 1)
    check_pixels(max(width, x + image_width), max(height, y + image_height), max_pixels)
    end = _end(data, at + 11 + _palette(packed))
    return data[:start] + control + data[at:end] + b";"


def _palette(packed: int) -> int:
    """The bytes of the palette that follows."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _end(data: bytes, at: int) -> int:
    """Where a series of blocks ends, each of which begins with its length."""
    for _ in range(MAX_SEGMENTS):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise ImageRejected(f"More than {MAX_SEGMENTS} blocks.")
