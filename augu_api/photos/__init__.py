"""From the bytes of a file to an RGB photo."""

import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from augu_api.photos import gif, jpeg, png, tiff
from augu_api.photos.checks import MAX_BYTES, ImageRejected, check_length, check_pixels, check_share
from augu_api.photos.png import decode

__all__ = ["MAX_BYTES", "ImageRejected", "configure", "decode", "decode_upright"]

UPLOADS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (jpeg.SIGNATURE,),
    "WEBP": (b"RIFF",),
    "BMP": (b"BM",),
    "GIF": (gif.SIGNATURE,),
    "TIFF": tiff.SIGNATURES,
}
"""By Pillow's name of a format, how its files start. Pillow would also try others, which nothing here has checked."""
MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"))  # with samples of at most 8 bits
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
UNKNOWN = "Not an image of an accepted format."


def configure() -> None:
    """Set Pillow up for this process: `max_pixels` is the only bound on pixels, and broken tags log no warnings.

    Programs call this once, when they start.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_upright(
    data: bytes, max_pixels: int, max_bytes: int = MAX_BYTES, *, trusted: bool = False
) -> NDArray[np.uint8]:
    """Decode a PNG as `decode` does, a JPEG, WebP, BMP, GIF or TIFF; of an animation, the first frame.

    The photo is upright, as its EXIF says. A kind whose decoder needs more memory than a PNG's may have fewer pixels:
    a JPEG of several scans half as many, the others and a JPEG that only Pillow decodes a quarter. A trusted file may
    have any format that Pillow knows, and any length unless it is a PNG. The result may be a view, turned. Raises
    ImageRejected.
    """
    if data.startswith(png.SIGNATURE):
        return _turned(decode(data, max_pixels, max_bytes), tiff.orientation(png.exif(data)))
    if not trusted:
        check_length(data, max_bytes)
    kind = _kind(data, trusted=trusted)
    data, exif = _prepared(data, kind, max_pixels)
    with _opened(data, kind) as image:
        check_pixels(*image.size, max_pixels)
        return _shown(image, _of_jpeg(image, data, max_pixels, trusted=trusted), exif)


def _kind(data: bytes, *, trusted: bool) -> str | None:
    """Pillow's name of the format; of a trusted file, None if only Pillow can say it. Raises ImageRejected."""
    kind = next((name for name, starts in UPLOADS.items() if data.startswith(starts)), None)
    if kind is None and not trusted:
        raise ImageRejected(UNKNOWN)
    return None if trusted and kind != "JPEG" else kind


def _of_jpeg(image: ImageFile.ImageFile, data: bytes, max_pixels: int, *, trusted: bool) -> NDArray[np.uint8] | None:
    """The RGB pixels (H, W, 3) of a JPEG as stored; None if Pillow decodes it, or another kind, and may do so."""
    is_jpeg = image.format == "JPEG"
    photo = jpeg.decode(data, image.size, max_pixels, trusted=trusted) if is_jpeg else None
    if photo is None and not trusted:
        check_share(*image.size, max_pixels, BY_PILLOW, f"{image.format} of this kind")
        _check_kind(image)
        if is_jpeg and (whole := jpeg.with_end(data)):
            return jpeg.decode(whole, image.size, max_pixels, trusted=trusted)
    return photo


def _prepared(data: bytes, kind: str | None, max_pixels: int) -> tuple[bytes, bytes]:
    """The same file without what would slow its decoder, and its EXIF if that is such a thing."""
    if kind == "JPEG":
        return jpeg.without_metadata(data)
    if kind == "GIF":
        return gif.first_image(data, max_pixels), b""
    return tiff.without_metadata(data) if kind == "TIFF" else data, b""


def _check_kind(image: ImageFile.ImageFile) -> None:
    """Refuse what Pillow decodes in Python, and samples that it would cut off at 255."""
    if image.format == "BMP" and image.tile[0].codec_name != "raw":
        raise ImageRejected("Compressed BMPs are not accepted.")
    if image.format == "TIFF" and image.mode not in MODES:
        raise ImageRejected("TIFFs with samples of more than 8 bits are not accepted.")


def _opened(data: bytes, kind: str | None) -> ImageFile.ImageFile:
    try:
        return Image.open(BytesIO(data), formats=[kind] if kind else None)
    except UnidentifiedImageError as error:
        raise ImageRejected(UNKNOWN) from error
    except Exception as error:  # each format of Pillow has its own
        raise ImageRejected(CORRUPT) from error


def _shown(image: ImageFile.ImageFile, photo: NDArray[np.uint8] | None, exif: bytes) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3), turned as the EXIF says; `photo` are the pixels if they are decoded already."""
    try:
        if photo is None:
            photo = _pixels(image)
        if image.format == "TIFF":  # which newer releases of Pillow have turned already
            return _turned(photo, image.getexif().get(ExifTags.Base.Orientation))
        return _turned(photo, tiff.orientation(exif or image.info.get("exif", b"").removeprefix(jpeg.EXIF)))
    except Exception as error:
        raise ImageRejected(CORRUPT) from error


def _turned(photo: NDArray[np.uint8], orientation: int | None) -> NDArray[np.uint8]:
    turn = TURNED.get(orientation)
    return turn(photo) if turn else photo


def _pixels(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3), converted strip by strip."""
    image.load()
    photo = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, png.STRIP // image.width)
    for at in range(0, image.height, rows):
        strip = image.crop((0, at, image.width, min(at + rows, image.height)))
        photo[at : at + rows] = np.asarray(png.on_white(strip))
    return photo
