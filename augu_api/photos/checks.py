"""Checks for all formats, and the error for rejected images."""

MAX_BYTES = 5 * 1024 * 1024
SMALL = 1_000_000  # pixels that may be of any kind
MAX_SEGMENTS = 100_000  # chunks of a PNG, segments of a JPEG


class ImageRejected(ValueError):
    """The bytes are not an image that can be accepted; the message says why, for a person."""


def check_length(data: bytes, max_bytes: int = MAX_BYTES) -> None:
    """Raise ImageRejected if a file is too long."""
    if len(data) > max_bytes:
        raise ImageRejected(f"Larger than {max_bytes} bytes.")


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageRejected if an image is too large."""
    if width * height > max_pixels:
        raise ImageRejected(f"More than {max_pixels} pixels: {width} x {height}.")


def check_share(width: int, height: int, max_pixels: int, divisor: int, kind: str) -> None:
    """Raise ImageRejected if an image of a kind that takes `divisor` times the memory is too large for that."""
    bound = max(max_pixels // divisor, SMALL)
    if width * height > bound:
        raise ImageRejected(f"More than {bound} pixels in a {kind}: {width} x {height}.")
