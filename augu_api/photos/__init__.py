"""From the bytes of a file to an RGB photo."""

import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from augu_api.photos import jpeg, png
from augu_api.photos.checks import MAX_BYTES, ImageRejected, check_length, check_pixels, check_share
from augu_api.photos.png import decode

__all__ = ["MAX_BYTES", "ImageRejected", "configure", "decode", "decode_upright"]

UPLOADS = ("JPEG", "WEBP")  # as Pillow names them
BY_PILLOW = 4  # Pillow needs up to 20 bytes for each pixel of a WebP, the decoder of PNGs 3
TURNED: dict[int | None, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda photo: photo[:, ::-1],
    3: lambda photo: photo[::-1, ::-1],
    4: lambda photo: photo[::-1],
    5: lambda photo: photo.swapaxes(0, 1),
    6: lambda photo: photo[::-1].swapaxes(0, 1),
    7: lambda photo: photo[::-1, ::-1].swapaxes(0, 1),
    8: lambda photo: photo[:, ::-1].swapaxes(0, 1),
}
"""By the EXIF's orientation, how a stored photo is shown: a view, since a copy would double the memory."""
CORRUPT = "Truncated or corrupt image."


def configure() -> None:
    """Set Pillow up for this process: `max_pixels` is the only bound on pixels, and broken tags log no warnings.

    Programs call this once, when they start.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_upright(data: bytes, max_pixels: int, *, trusted: bool = False) -> NDArray[np.uint8]:
    """Decode a PNG as `decode` does, a JPEG or a WebP upright as it is shown; of an animation, the first frame.

    A kind whose decoder needs more memory than a PNG's may have fewer pixels: a JPEG of several scans half as many, a
    WebP and a JPEG that only Pillow decodes a quarter. A trusted file may have any format that Pillow knows, and any
    length unless it is a PNG. The result may be a view, turned. Raises ImageRejected.
    """
    if data.startswith(png.SIGNATURE):
        return decode(data, max_pixels)
    if not trusted:
        check_length(data)
    if data.startswith(jpeg.SIGNATURE):
        data = jpeg.without_metadata(data)
    with _opened(data, None if trusted else UPLOADS) as image:
        check_pixels(*image.size, max_pixels)
        photo = jpeg.decode(data, image.size, max_pixels, trusted=trusted) if image.format == "JPEG" else None
        if photo is None and not trusted:
            check_share(*image.size, max_pixels, BY_PILLOW, f"{image.format} of this kind")
        return _shown(image, photo)


def _opened(data: bytes, formats: tuple[str, ...] | None) -> ImageFile.ImageFile:
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise ImageRejected("Not an image of an accepted format.") from error
    except Exception as error:  # each format of Pillow has its own
        raise ImageRejected(CORRUPT) from error


def _shown(image: ImageFile.ImageFile, photo: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3), turned as the EXIF says; `photo` are the pixels if they are decoded already."""
    try:
        if photo is None:
            photo = _pixels(image)
        turn = TURNED.get(image.getexif().get(ExifTags.Base.Orientation))
        return turn(photo) if turn else photo
    except Exception as error:
        raise ImageRejected(CORRUPT) from error


def _pixels(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3), converted strip by strip."""
    image.load()
    photo = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, png.STRIP // image.width)
    for at in range(0, image.height, rows):
        strip = image.crop((0, at, image.width, min(at + rows, image.height)))
        photo[at : at + rows] = np.asarray(png.on_white(strip))
    return photo
