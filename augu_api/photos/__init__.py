"""From the bytes of a file to an RGB photo."""

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from augu_api.photos import jpeg, png
from augu_api.photos.checks import MAX_BYTES, ImageRejected, check_length, check_pixels
from augu_api.photos.png import decode

__all__ = ["MAX_BYTES", "ImageRejected", "configure", "decode", "decode_upright"]

UPLOADS = ("JPEG", "WEBP")  # as Pillow names them
CORRUPT = "Truncated or corrupt image."


def configure() -> None:
    """Set Pillow up for this process: `max_pixels` is the only bound on pixels, and broken tags log no warnings.

    Programs call this once, when they start.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_upright(data: bytes, max_pixels: int, *, trusted: bool = False) -> NDArray[np.uint8]:
    """Decode a PNG as `decode` does, a JPEG or a WebP upright as it is shown; of an animation, the first frame.

    A trusted file may have any format that Pillow knows, and any length unless it is a PNG. Raises ImageRejected.
    """
    if data.startswith(png.SIGNATURE):
        return decode(data, max_pixels)
    if not trusted:
        check_length(data)
    if data.startswith(jpeg.SIGNATURE):
        data = jpeg.without_metadata(data)
    with _opened(data, None if trusted else UPLOADS) as image:
        check_pixels(*image.size, max_pixels)
        return np.asarray(_shown(image))


def _opened(data: bytes, formats: tuple[str, ...] | None) -> ImageFile.ImageFile:
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise ImageRejected("Not an image of an accepted format.") from error
    except Exception as error:  # each format of Pillow has its own
        raise ImageRejected(CORRUPT) from error


def _shown(image: ImageFile.ImageFile) -> Image.Image:
    try:
        image.getexif()  # cached, so that transposing does not write the EXIF again, where a broken tag would raise
        image.info.pop("exif", None)
        ImageOps.exif_transpose(image, in_place=True)
        return png.on_white(image)
    except Exception as error:
        raise ImageRejected(CORRUPT) from error
