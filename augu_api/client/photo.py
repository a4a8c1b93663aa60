"""Photos as the service takes them: a PNG, upright, and not too large.

A PNG that is all this is sent as it is. Everything else is decoded by Pillow, which is imported only then.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Union

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 5 << 20  # of a PNG that the service accepts
MAX_PIXELS = 25_000_000  # likewise
MAX_ENCODED = 1280 * 1280  # pixels of a PNG that is made here: as RGB they fit in MAX_BYTES even if nothing compresses
MAX_DECODED = 110_000_000  # pixels: the largest photos of phones have 108 million, for which Pillow takes 440 MB
MAX_FILE = 1 << 28  # bytes
TURNED = re.compile(rb"\x01\x12\0\x03\0{3}\x01\0[\x02-\x08]|\x12\x01\x03\0\x01\0{3}[\x02-\x08]\0")
"""The entry of an EXIF block that says that the photo must be turned, big-endian or little-endian."""
ORIENTATION = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""By the EXIF's orientation, what Pillow calls the turn that the photo needs."""


class InvalidPhoto(ValueError):
    """A photo that cannot be sent. The message says why, in one line."""


class File(Protocol):
    """A file object that was opened in binary mode."""

    def read(self, size: int, /) -> bytes:
        """Read at most this many bytes."""


class Pixels(Protocol):
    """An array of numpy."""

    @property
    def __array_interface__(self) -> Any:
        """How the array lies in memory."""


class Picture(Protocol):
    """An image of Pillow."""

    def getexif(self) -> Any:
        """The EXIF block."""


Photo = Union[str, "PathLike[str]", bytes, bytearray, memoryview, File, Picture, Pixels]
"""A path, the bytes of a file, a file object, an image of Pillow, or pixels.

Files have any format that Pillow reads. Pixels are uint8 in RGB order, of shape (H, W), (H, W, 1), (H, W, 3) or
(H, W, 4).
"""


@dataclass(frozen=True)
class Prepared:
    """A PNG for the service: its size (width, height) in pixels, and the size of the caller's upright photo."""

    png: bytes
    size: tuple[int, int]
    upright: tuple[int, int]


def prepare(photo: Photo, max_decoded: int = MAX_DECODED) -> Prepared:
    """Make what is sent for a photo, of at most `max_decoded` pixels if it must be decoded. Raises InvalidPhoto."""
    source: Any = photo
    if hasattr(source, "getexif"):
        return _encoded(source, source.size, max_decoded)
    try:
        view = memoryview(_read(source) if isinstance(source, (str, PathLike)) or hasattr(source, "read") else source)
    except TypeError:
        kinds = "a path, the bytes of a file, a file object, an image of Pillow or an array of pixels"
        raise InvalidPhoto(f"A photo is {kinds}, not {type(photo).__name__}.") from None
    if view.ndim != 1:
        image = _from_pixels(view)
        return _encoded(image, image.size, max_decoded)
    data = view.tobytes()
    if not data:
        raise InvalidPhoto("The photo is empty. A file object is read from its position on; seek(0) goes to the start.")
    return _as_it_is(data) or _decoded(data, max_decoded)


def _read(photo: Any) -> bytes:
    """The file at a path, or what a file object still has."""
    try:
        if hasattr(photo, "read"):
            data = photo.read(MAX_FILE + 1)
        else:
            with Path(photo).open("rb") as file:
                data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # a ValueError if the file is closed, or the path no path
        where = "" if hasattr(photo, "read") else f" at {str(photo)[:200]!r}"
        why = getattr(error, "strerror", None) or error
        raise InvalidPhoto(f"The photo{where} cannot be read: {why}.") from None
    if not isinstance(data, bytes):
        raise InvalidPhoto(f'The file object gives {type(data).__name__} instead of bytes: open it with mode "rb".')
    if len(data) > MAX_FILE:
        raise InvalidPhoto(f"The photo has more than {MAX_FILE} bytes.")
    return data


def _as_it_is(data: bytes) -> Prepared | None:
    """A PNG that the service accepts and that need not be turned. Whether it is broken is for the service to say."""
    if not data.startswith(PNG_SIGNATURE) or len(data) > MAX_BYTES or (b"eXIf" in data and TURNED.search(data)):
        return None
    width, height = struct.unpack_from(">II", data.ljust(24, b"\0"), 16)
    return Prepared(data, (width, height), (width, height)) if width * height <= MAX_PIXELS else None


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - a PNG is sent without it
    except ImportError:
        limits = f"a PNG of at most {MAX_BYTES} bytes and {MAX_PIXELS} pixels, upright"
        raise InvalidPhoto(f"Without Pillow a photo must be {limits}. Install Pillow: pip install pillow") from None
    return Image


def _from_pixels(view: memoryview) -> Any:
    shape = view.shape or ()
    mode = {(): "L", (1,): "L", (3,): "RGB", (4,): "RGBA"}.get(shape[2:])
    if len(shape) < 2 or mode is None or view.format != "B":
        shapes = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise InvalidPhoto(f"Pixels must be uint8 of shape {shapes}, not {view.format!r} of shape {shape}.")
    return _pillow().frombytes(mode, shape[1::-1], view.tobytes())


def _decoded(data: bytes, max_decoded: int) -> Prepared:
    """A file in any format of Pillow's but EPS, for which it would run another program."""
    pillow = _pillow()
    try:
        image = pillow.open(BytesIO(data))
    except pillow.DecompressionBombError as error:
        raise InvalidPhoto(f"{error}") from None
    except Exception:  # noqa: BLE001 - each format has its own
        heic = " To read HEIC, install pillow-heif and call register_heif_opener()." if data[4:8] == b"ftyp" else ""
        raise InvalidPhoto(f"This is not an image in a format that Pillow reads.{heic}") from None
    with image:
        if image.format == "EPS":
            raise InvalidPhoto("This is EPS, a program rather than an image, which is not run.")
        size = image.size
        image.draft(image.mode, _within(size))  # a JPEG is decoded at a fraction of its size
        return _encoded(image, size, max_decoded)


def _within(size: tuple[int, int]) -> tuple[int, int]:
    """The size, reduced to MAX_ENCODED pixels if it has more."""
    scale = min(1, math.sqrt(MAX_ENCODED / max(1, size[0] * size[1])))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _encoded(image: Any, size: tuple[int, int], max_decoded: int) -> Prepared:
    """An image of Pillow; its file has this size."""
    if not 0 < size[0] * size[1] <= max_decoded:
        raise InvalidPhoto(f"A photo of {size[0]} x {size[1]} pixels is not decoded, only of 1 to {max_decoded}.")
    try:
        image.load()
        orientation = _orientation(image)
        image = _rgb(image).resize(_within(size), _pillow().Resampling.BICUBIC, reducing_gap=3)
        if orientation != 1:
            image = image.transpose(_pillow().Transpose[TURNS[orientation]])
        image.info.clear()  # neither a colour profile nor the place where the photo was taken
        file = BytesIO()
        image.save(file, "PNG", compress_level=1)
    except Exception as error:  # noqa: BLE001 - each format has its own
        raise InvalidPhoto(f"Pillow cannot decode this photo: {error}") from None
    return Prepared(file.getvalue(), image.size, size if orientation < 5 else size[::-1])


def _orientation(image: Any) -> int:
    """The EXIF's orientation: 1 if the image is upright, from 5 on if it lies on its side."""
    try:
        orientation: int = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block says nothing, as in browsers
        return 1
    return orientation if isinstance(orientation, int) and orientation in TURNS else 1


def _rgb(image: Any) -> Any:
    """The image in RGB; transparency is laid over white, as the service does."""
    if image.mode.startswith(("I", "F")):
        image = _grey(image)
    if image.has_transparency_data:
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = _pillow().new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _grey(image: Any) -> Any:
    """A grey image of 8 bits. The white of 16 bits is 65535, that of other numbers the first of these not exceeded."""
    values = image.convert("I").convert("F") if image.mode.startswith("I") else image
    largest = 65535 if image.mode.startswith("I;16") else values.getextrema()[1]
    white = next((top for top in (1, 255, 65535) if largest <= top), largest)
    return values.point(lambda value: value * (255 / white)).convert("L")
