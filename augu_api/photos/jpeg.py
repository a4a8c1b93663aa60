"""Take from a JPEG what would slow its decoder. Source of the format: ITU-T T.81."""

import re
from collections.abc import Iterator

from augu_api.photos.checks import MAX_SEGMENTS, ImageRejected

SIGNATURE = b"\xff\xd8\xff"
MAX_SCANS = 30  # most files have 1 or 10, and each is a pass over all pixels
SOS, APP1 = 0xDA, 0xE1
ARITHMETIC = frozenset((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))  # without APP0 and APP14, which say how colours are stored
MARKER = re.compile(rb"\xff[^\x00\xff]")
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


def without_metadata(data: bytes) -> bytes:
    """The same JPEG, whose only metadata is its first EXIF: Pillow takes seconds for a million texts and previews.

    Raises ImageRejected if there are too many scans or segments, or if it is coded arithmetically.
    """
    if len(SCAN.findall(data)) > MAX_SCANS:
        raise ImageRejected(f"More than {MAX_SCANS} scans.")
    segments = list(_segments(data))
    if any(marker in ARITHMETIC for marker, _ in segments):  # a few bytes can take long, and no browser shows it
        raise ImageRejected("Arithmetic-coded JPEGs are not accepted.")
    exif = [raw for marker, raw in segments if marker == APP1 and bytes(raw[4:10]) == b"Exif\0\0"]
    return b"".join([data[:2], *exif[:1], *(raw for marker, raw in segments if marker not in METADATA)])


def _segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the marker and bytes of each segment before the first scan, then the scan with all that follows it."""
    view, at = memoryview(data), 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            break
        at, marker = found.start(), data[found.start() + 1]
        end = len(data) if marker == SOS else at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield marker, view[at:end]
        if marker == SOS:
            return
        at = end
    raise ImageRejected("Truncated or corrupt image.")
