"""Take from a JPEG what would slow its decoder, and decode it. Source of the format: ITU-T T.81."""

import re
from collections.abc import Iterator
from hashlib import blake2b
from io import BytesIO

import numpy as np
from kornia_rs.io import decode_image_jpegturbo
from numpy.typing import NDArray
from PIL import Image

from augu_api.photos.checks import MAX_SEGMENTS, ImageRejected, check_share

SIGNATURE = b"\xff\xd8\xff"
MAX_TABLES = 1000  # segments other than metadata; each copy of a table takes as long as the first
MAX_SCANS = 30  # most files have 1 or 10, and each is a pass over all pixels
BUFFERED = 2  # a JPEG of several scans, whose samples are kept in 16 bits, may have half as many pixels
SEQUENTIAL = frozenset((0xC0, 0xC1))
FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7))
SOS, APP1 = 0xDA, 0xE1
END = b"\xff\xd9"
NO_SAMPLES = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # in a scan: what is neither a sample nor a restart
EXIF = b"Exif\0\0"
FILLERS = (b"", b"\x5a" * 64, b"\xa5" * 64)
ARITHMETIC = frozenset((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))  # without APP0 and APP14, which say how colours are stored
MARKER = re.compile(rb"\xff[^\x00\xff]")
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


def without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """The same JPEG without metadata, and its first EXIF: Pillow takes seconds for a million texts and previews.

    Raises ImageRejected if there are too many scans or segments, or if it is coded arithmetically.
    """
    if len(SCAN.findall(data)) > MAX_SCANS:
        raise ImageRejected(f"More than {MAX_SCANS} scans.")
    segments = list(_segments(data))
    if any(marker in ARITHMETIC for marker, _ in segments):  # a few bytes can take long, and no browser shows it
        raise ImageRejected("Arithmetic-coded JPEGs are not accepted.")
    exif = next((bytes(raw[10:]) for marker, raw in segments if marker == APP1 and raw[4:10] == EXIF), b"")
    kept = [raw for marker, raw in segments if marker not in METADATA]
    if len(kept) > MAX_TABLES:
        raise ImageRejected(f"More than {MAX_TABLES} segments.")
    return b"".join([data[:2], *kept]), exif


def is_buffered(data: bytes) -> bool:
    """Whether the samples of the whole image are kept until the last scan, as those of a progressive JPEG are."""
    segments = dict(_segments(data))
    [frame] = [marker for marker in segments if marker in FRAMES][:1] or [0]
    return frame not in SEQUENTIAL or segments[frame][9:10] != segments[SOS][4:5]


def with_end(data: bytes) -> bytes | None:
    """The same JPEG with the end marker that it lacks; None if it lacks more than that, or nothing.

    libjpeg-turbo takes what is missing of the samples to be zeros, so a truncated photo looks different if something
    else follows. Only those of one scan are tried, since others may lack whole scans.
    """
    start = data.rstrip(b"\xff")
    scan = dict(_segments(start))[SOS]
    if NO_SAMPLES.search(scan, 2) or is_buffered(start):
        return None
    try:
        seen = {_digest(start + filler + END) for filler in FILLERS}
    except Exception:  # noqa: BLE001 - it is broken in another way as well
        return None
    return start + END if len(seen) == 1 else None


def _digest(data: bytes) -> bytes:
    """A digest of what Pillow shows, which passes over what is left of a scan. Raises Pillow's errors."""
    with Image.open(BytesIO(data), formats=["JPEG"]) as image:
        return blake2b(image.tobytes()).digest()


def decode(data: bytes, size: tuple[int, int], max_pixels: int, *, trusted: bool) -> NDArray[np.uint8] | None:
    """The RGB pixels (H, W, 3) as stored; None if only Pillow can say what is wrong, or if the JPEG is in CMYK.

    libjpeg-turbo gives the same pixels through kornia-rs and through Pillow, which needs 10 bytes for each pixel.
    Raises ImageRejected if an untrusted JPEG is progressive and has more than half of `max_pixels`.
    """
    if not trusted and is_buffered(data):
        check_share(*size, max_pixels, BUFFERED, "progressive JPEG")
    try:
        photo: NDArray[np.uint8] = decode_image_jpegturbo(data, "rgb")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a panic of Rust is no Exception, and its class is not public
        return None
    return photo if photo.shape[1::-1] == size else None


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
